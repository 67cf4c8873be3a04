// UTF-8 text: walking over code points, repair of broken text, and the trimming that templates do.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace matvlm {

// Returned for a byte that starts no valid sequence; above every Unicode code point.
inline constexpr uint32_t kInvalidCode = 0x110000;

struct CodePoint {
  uint32_t code;   // kInvalidCode for an invalid byte
  int64_t length;  // bytes; for invalid text the maximal prefix of a sequence, at least 1
};

// The code point at byte `at` (at < text.size()). Overlong forms, surrogates and values above U+10FFFF are invalid.
CodePoint code_point_at(std::string_view text, int64_t at);

void append_utf8(std::string& out, uint32_t code);

// Number of bytes at the end of `text` that could become a valid sequence if more bytes followed (0 to 3).
int64_t incomplete_utf8_tail(std::string_view text);

// Replaces every maximal invalid part by U+FFFD.
std::string repair_utf8(std::string_view text);

// Without white space at both ends, where white space is what Python's str.strip() removes: \s and U+001C..U+001F.
std::string_view strip(std::string_view text);

}  // namespace matvlm
