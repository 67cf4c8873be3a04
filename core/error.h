// Errors: one exception type whose message is one line that names the file or op, the key, what was found and what was
// expected. Programs print it and exit with a code other than 0; nothing in the project prints and goes on.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace matvlm {

// `text` on one line: control characters, which names out of a hostile file may hold, become \n and \x1b.
inline std::string one_line(const std::string& text) {
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

class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(one_line(message)) {}
};

// Concatenates its arguments as operator<< prints them.
template <class... Args>
std::string cat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

// Throws Error with the concatenated arguments, e.g. fail(path, ": key '", key, "': found ", x, ", expected ", y).
template <class... Args>
[[noreturn]] void fail(const Args&... args) {
  throw Error(cat(args...));
}

// Throws Error unless `condition` holds. The message arguments are evaluated either way; keep them cheap.
template <class... Args>
void check(bool condition, const Args&... args) {
  if (!condition) fail(args...);
}

}  // namespace matvlm
