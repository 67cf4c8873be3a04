// Both directions of the byte alphabet, built once.
#include "data/byte_alphabet.h"

#include <array>

#include "data/utf8.h"

namespace matvlm {
namespace {

constexpr uint32_t kCodes = 0x144;  // the alphabet's characters lie below this code point

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int32_t, kCodes> bytes;
  Alphabet() {
    bytes.fill(-1);
    uint32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      const uint32_t code = printable ? byte : next++;
      append_utf8(characters[byte], code);
      bytes[code] = static_cast<int32_t>(byte);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet table;
  return table;
}

}  // namespace

const std::string& byte_character(uint8_t byte) { return alphabet().characters[byte]; }

std::string to_byte_characters(std::string_view bytes) {
  std::string out;
  for (const char byte : bytes) out += byte_character(static_cast<uint8_t>(byte));
  return out;
}

std::optional<std::string> from_byte_characters(std::string_view token) {
  std::string out;
  for (int64_t at = 0; at < static_cast<int64_t>(token.size());) {
    const CodePoint point = code_point_at(token, at);
    if (point.code >= kCodes || alphabet().bytes[point.code] < 0) return std::nullopt;
    out.push_back(static_cast<char>(alphabet().bytes[point.code]));
    at += point.length;
  }
  return out;
}

}  // namespace matvlm
