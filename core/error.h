// Errors: one exception type whose message is one line that names the file or op, the key, what was found and what was
// expected. Programs print it and exit with a code other than 0; nothing in the project prints and goes on.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace matvlm {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
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
