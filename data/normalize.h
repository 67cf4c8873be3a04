// Normalization form C (Unicode Standard Annex 15), by the tables of data/unicode_normalization.h.
#pragma once

#include <string>
#include <string_view>

namespace matvlm {

// Whether to_nfc(text) is certainly `text` itself: no code point that could decompose, compose or change places.
bool is_nfc_quick(std::string_view text);

// `text` in form C. Bytes that are not UTF-8 stay as they are; nothing composes over them.
std::string to_nfc(std::string_view text);

}  // namespace matvlm
