// Errors: one exception type whose message is one line that names the file or op, the key, what was found and what was
// expected. Programs print it and exit with a code other than 0; nothing in the project prints and goes on.
#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

namespace matvlm {

// `text` on one line: control characters, which names out of a hostile file may hold, become \n and \x1b.
std::string one_line(std::string_view text);

class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message);
};

// A piece of a message, which appears as std::ostream would print it; text must outlive the piece. Messages are lists
// of pieces and not templates over their arguments, because string literals of every length are types of their own: the
// compiler would make a function of its own for nearly every check.
class MessagePart {
 public:
  MessagePart(const char* text) : kind_(Kind::text), text_(text) {}
  MessagePart(std::string_view text) : kind_(Kind::text), text_(text) {}
  MessagePart(const std::string& text) : kind_(Kind::text), text_(text) {}
  template <std::same_as<char> T>
  MessagePart(T character) : kind_(Kind::character), character_(character) {}
  template <std::signed_integral T>
  requires(sizeof(T) > 1) MessagePart(T number) : kind_(Kind::integer), integer_(number) {}
  template <std::unsigned_integral T>
  requires(sizeof(T) > 1 || std::same_as<T, bool>) MessagePart(T number) : kind_(Kind::natural), natural_(number) {}
  template <std::floating_point T>
  MessagePart(T number) : kind_(Kind::real), real_(static_cast<double>(number)) {}

  void append_to(std::string& message) const;

 private:
  enum class Kind { text, character, integer, natural, real };
  Kind kind_;
  union {
    std::string_view text_;
    char character_;
    int64_t integer_;
    uint64_t natural_;
    double real_;
  };
};

std::string join_message(std::initializer_list<MessagePart> parts);
[[noreturn]] void fail_with(std::initializer_list<MessagePart> parts);

// Concatenates its arguments.
template <class... Args>
std::string cat(const Args&... args) {
  return join_message({MessagePart(args)...});
}

// Throws Error with the concatenated arguments, e.g. fail(path, ": key '", key, "': found ", x, ", expected ", y).
template <class... Args>
[[noreturn]] void fail(const Args&... args) {
  fail_with({MessagePart(args)...});
}

// Throws Error unless `condition` holds. The message arguments are evaluated either way; keep them cheap.
template <class... Args>
void check(bool condition, const Args&... args) {
  if (!condition) fail_with({MessagePart(args)...});
}

}  // namespace matvlm
