#include "core/error.h"

#include <array>
#include <cstdio>

namespace matvlm {

std::string one_line(std::string_view text) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7f) {
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else {
      out += "\\x";
      out += kDigits[byte >> 4];
      out += kDigits[byte & 15];
    }
  }
  return out;
}

Error::Error(const std::string& message) : std::runtime_error(one_line(message)) {}

void MessagePart::append_to(std::string& message) const {
  switch (kind_) {
    case Kind::text:
      message += text_;
      break;
    case Kind::character:
      message += character_;
      break;
    case Kind::integer:
      message += std::to_string(integer_);
      break;
    case Kind::natural:
      message += std::to_string(natural_);
      break;
    case Kind::real: {
      std::array<char, 32> digits;
      std::snprintf(digits.data(), digits.size(), "%g", real_);
      message += digits.data();
      break;
    }
  }
}

std::string join_message(std::initializer_list<MessagePart> parts) {
  std::string message;
  for (const MessagePart& part : parts) part.append_to(message);
  return message;
}

void fail_with(std::initializer_list<MessagePart> parts) { throw Error(join_message(parts)); }

}  // namespace matvlm
