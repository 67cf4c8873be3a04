// Unicode character classes of the pre-tokenisation patterns, of Unicode 15.0. A code point above 0x10FFFF (which
// data/utf8.h uses for an invalid byte) belongs to none of them.
#pragma once

#include <cstdint>

namespace matvlm {

bool is_letter(uint32_t code);  // \p{L}
bool is_number(uint32_t code);  // \p{N}
bool is_space(uint32_t code);   // \s: the White_Space property
bool is_word(uint32_t code);    // \w: Alphabetic, marks, decimal digits, connector punctuation, joiners

}  // namespace matvlm
