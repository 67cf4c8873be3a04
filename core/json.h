// A JSON value with errors that name the file and the path of the key. Parsing is strict: duplicate keys, trailing
// text, invalid UTF-8 and nesting deeper than 128 are errors. The parser behind it (json.cpp) is nlohmann-json.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace matvlm {

class Json {
 public:
  enum class Kind { null, boolean, integer, number, string, array, object };

  Json();  // null
  static Json object();
  static Json array();
  static Json of(bool value);
  static Json of(int64_t value);
  static Json of(double value);
  static Json of(std::string_view value);

  // `source` (a file name) heads every error message of this value and of its children.
  static Json parse(std::string_view text, const std::string& source);
  static Json read_file(const std::string& path);

  Kind kind() const;
  bool is_null() const { return kind() == Kind::null; }
  bool is_object() const { return kind() == Kind::object; }
  bool is_array() const { return kind() == Kind::array; }
  bool is_string() const { return kind() == Kind::string; }

  // Values; an Error names source, path, the kind found and the kind expected. as_double accepts integers.
  bool as_bool() const;
  int64_t as_int() const;
  double as_double() const;
  std::string as_string() const;

  int64_t size() const;                   // of an array or object, else an Error
  Json at(int64_t index) const;           // Error when out of range
  Json at(std::string_view key) const;    // Error when missing
  bool has(std::string_view key) const;   // false also when this is no object
  std::vector<std::string> keys() const;  // in file order
  // Value of `key`, or `otherwise` when it is missing or null.
  bool get(std::string_view key, bool otherwise) const;
  int64_t get(std::string_view key, int64_t otherwise) const;
  int64_t get(std::string_view key, int otherwise) const { return get(key, static_cast<int64_t>(otherwise)); }
  double get(std::string_view key, double otherwise) const;
  std::string get(std::string_view key, const char* otherwise) const;

  // Building. set() keeps insertion order and replaces an existing key.
  Json& set(std::string_view key, const Json& value);
  Json& set(std::string_view key, bool value) { return set(key, of(value)); }
  Json& set(std::string_view key, int64_t value) { return set(key, of(value)); }
  Json& set(std::string_view key, int value) { return set(key, of(static_cast<int64_t>(value))); }
  Json& set(std::string_view key, double value) { return set(key, of(value)); }
  Json& set(std::string_view key, std::string_view value) { return set(key, of(value)); }
  Json& set(std::string_view key, const char* value) { return set(key, of(std::string_view(value))); }
  Json& push(const Json& value);

  // indent < 0: one line. Non-finite numbers are written as null. Doubles round-trip.
  std::string dump(int indent = -1) const;

  // Where this value came from, for messages: "file: key 'a.b[3]'".
  std::string where() const;

 private:
  struct Node;
  std::shared_ptr<Node> node_;
  explicit Json(std::shared_ptr<Node> node);
};

}  // namespace matvlm
