// Json over nlohmann-json's event parser. The values are our own: objects keep their order and find a key in O(log n),
// arrays and objects are shared until one of the holders writes, so that copies and at() are cheap.
#include "core/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <variant>

#include "core/error.h"
#include "core/file.h"

namespace matvlm {
namespace {

constexpr size_t kMaxDepth = 128;

struct Array;
struct Object;

// The alternatives stand in the order of Json::Kind.
using Value =
    std::variant<std::monostate, bool, int64_t, double, std::string, std::shared_ptr<Array>, std::shared_ptr<Object>>;

struct Array {
  std::vector<Value> items;
};

struct Object {
  std::vector<std::string> keys;  // in file order
  std::vector<Value> values;
  std::vector<size_t> sorted;  // positions in `keys`, in alphabetical order of the keys

  std::vector<size_t>::const_iterator lower_bound(std::string_view key) const {
    return std::lower_bound(sorted.begin(), sorted.end(), key,
                            [this](size_t position, std::string_view wanted) { return keys[position] < wanted; });
  }
  std::optional<size_t> find(std::string_view key) const {
    const auto place = lower_bound(key);
    if (place == sorted.end() || keys[*place] != key) return std::nullopt;
    return *place;
  }
  void sort() {
    sorted.resize(keys.size());
    std::iota(sorted.begin(), sorted.end(), size_t{0});
    std::sort(sorted.begin(), sorted.end(), [this](size_t a, size_t b) { return keys[a] < keys[b]; });
  }
  // A key that stands twice, once sort() has run.
  const std::string* duplicate() const {
    for (size_t i = 1; i < sorted.size(); ++i) {
      if (keys[sorted[i - 1]] == keys[sorted[i]]) return &keys[sorted[i]];
    }
    return nullptr;
  }
  void set(std::string_view key, Value value) {
    const auto place = lower_bound(key);
    if (place != sorted.end() && keys[*place] == key) {
      values[*place] = std::move(value);
      return;
    }
    sorted.insert(place, keys.size());
    keys.emplace_back(key);
    values.push_back(std::move(value));
  }
};

// Where a value stands: a chain from it to the root, built only along the way that was walked.
struct Location {
  std::string source;
  std::shared_ptr<const Location> parent;
  std::string step;  // "key" or "[3]"
};

std::string location_message(const std::string& source, const std::string& path) {
  const std::string& head = source.empty() ? "JSON" : source;
  if (path.empty()) return head;
  std::string line = path;
  std::replace_if(
      line.begin(), line.end(), [](char c) { return c >= 0 && c < 0x20; }, '?');
  return cat(head, ": key '", line, "'");
}

void append_step(std::string& path, const std::string& step, bool is_index) {
  if (!path.empty() && !is_index) path += '.';
  path += step;
}

const char* name_of(Json::Kind kind) {
  constexpr const char* kNames[] = {"null", "a boolean", "an integer", "a number", "a string", "an array", "an object"};
  return kNames[static_cast<size_t>(kind)];
}

// Error messages are one printable line whatever bytes the file holds.
std::string printable(std::string text) {
  for (char& c : text) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return text;
}

// Builds the value from the parser's events; stops at the first thing that strict parsing does not allow.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Builder(const std::string& source) : source_(source) {}

  Value result;

  bool null() override { return add(Value()); }
  bool boolean(bool value) override { return add(Value(value)); }
  bool number_integer(number_integer_t value) override { return add(Value(static_cast<int64_t>(value))); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return add(Value(static_cast<int64_t>(value)));
    }
    return add(Value(static_cast<double>(value)));
  }
  bool number_float(number_float_t value, const string_t&) override { return add(Value(value)); }
  bool string(string_t& value) override { return add(Value(std::move(value))); }
  bool binary(binary_t&) override { fail(source_, ": found binary data, expected JSON text"); }

  bool start_object(size_t) override {
    open().object = std::make_shared<Object>();
    return true;
  }
  bool start_array(size_t) override {
    open().array = std::make_shared<Array>();
    return true;
  }
  bool key(string_t& value) override {
    frames_.back().object->keys.push_back(std::move(value));
    return true;
  }
  bool end_object() override {
    const std::shared_ptr<Object> object = frames_.back().object;
    object->sort();
    if (const std::string* key = object->duplicate()) {
      object->keys.push_back(*key);  // path() names the last key
      fail(location_message(source_, path()), ": found the key more than once, expected once");
    }
    frames_.pop_back();
    return add(Value(object));
  }
  bool end_array() override {
    const std::shared_ptr<Array> array = frames_.back().array;
    frames_.pop_back();
    return add(Value(array));
  }

  bool parse_error(size_t, const std::string&, const nlohmann::json::exception& error) override {
    std::string what = error.what();
    const size_t bracket = what.find("] ");  // after the library's own error number
    if (what.starts_with("[") && bracket != std::string::npos) what = what.substr(bracket + 2);
    fail(location_message(source_, printable(path())), ": ", printable(what));
  }

 private:
  struct Frame {
    std::shared_ptr<Object> object;
    std::shared_ptr<Array> array;
  };

  Frame& open() {
    if (frames_.size() == kMaxDepth) {
      fail(location_message(source_, ""), ": found values nested deeper than ", kMaxDepth, ", expected at most ",
           kMaxDepth);
    }
    return frames_.emplace_back();
  }

  bool add(Value value) {
    if (frames_.empty()) {
      result = std::move(value);
    } else if (Frame& frame = frames_.back(); frame.object) {
      frame.object->values.push_back(std::move(value));
    } else {
      frame.array->items.push_back(std::move(value));
    }
    return true;
  }

  std::string path() const {
    std::string text;
    for (const Frame& frame : frames_) {
      if (frame.array) {
        append_step(text, cat("[", frame.array->items.size(), "]"), true);
      } else if (!frame.object->keys.empty()) {
        append_step(text, frame.object->keys.back(), false);
      }
    }
    return text;
  }

  std::string source_;
  std::vector<Frame> frames_;
};

std::string quote(const std::string& text) {
  // Text made by a model may end within a character; such bytes become the replacement character.
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string number_text(double value) {
  if (!std::isfinite(value)) return "null";
  char buffer[40];
  const std::to_chars_result end = std::to_chars(buffer, buffer + sizeof(buffer), value);  // shortest that round-trips
  std::string text(buffer, end.ptr);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";  // so that it is read back as a number
  return text;
}

class Writer {
 public:
  explicit Writer(int indent) : indent_(indent) {}

  void write(const Value& value, int depth) {
    switch (static_cast<Json::Kind>(value.index())) {
      case Json::Kind::null:
        text += "null";
        break;
      case Json::Kind::boolean:
        text += std::get<bool>(value) ? "true" : "false";
        break;
      case Json::Kind::integer:
        text += std::to_string(std::get<int64_t>(value));
        break;
      case Json::Kind::number:
        text += number_text(std::get<double>(value));
        break;
      case Json::Kind::string:
        text += quote(std::get<std::string>(value));
        break;
      case Json::Kind::array:
        write_array(*std::get<std::shared_ptr<Array>>(value), depth);
        break;
      case Json::Kind::object:
        write_object(*std::get<std::shared_ptr<Object>>(value), depth);
        break;
    }
  }

  std::string text;

 private:
  void write_array(const Array& array, int depth) {
    text += '[';
    for (size_t i = 0; i < array.items.size(); ++i) {
      if (i > 0) text += ',';
      new_line(depth + 1);
      write(array.items[i], depth + 1);
    }
    if (!array.items.empty()) new_line(depth);
    text += ']';
  }

  void write_object(const Object& object, int depth) {
    text += '{';
    for (size_t i = 0; i < object.keys.size(); ++i) {
      if (i > 0) text += ',';
      new_line(depth + 1);
      text += quote(object.keys[i]);
      text += indent_ < 0 ? ":" : ": ";
      write(object.values[i], depth + 1);
    }
    if (!object.keys.empty()) new_line(depth);
    text += '}';
  }

  void new_line(int depth) {
    if (indent_ < 0) return;
    text += '\n';
    text.append(static_cast<size_t>(indent_) * static_cast<size_t>(depth), ' ');
  }

  int indent_;
};

// The array or object of `value`, copied first when somebody else holds it too.
template <class Container>
Container& writable(Value& value) {
  auto& shared = std::get<std::shared_ptr<Container>>(value);
  if (shared.use_count() > 1) shared = std::make_shared<Container>(*shared);
  return *shared;
}

}  // namespace

struct Json::Node {
  Value value;
  std::shared_ptr<const Location> location;  // null for a value that was built, not read

  std::shared_ptr<Node> child(const Value& of_child, std::string step) const {
    auto place = std::make_shared<Location>(Location{"", location, std::move(step)});
    return std::make_shared<Node>(Node{of_child, std::move(place)});
  }
};

Json::Json() : node_(std::make_shared<Node>()) {}
Json::Json(std::shared_ptr<Node> node) : node_(std::move(node)) {}

Json Json::object() { return Json(std::make_shared<Node>(Node{std::make_shared<Object>(), nullptr})); }
Json Json::array() { return Json(std::make_shared<Node>(Node{std::make_shared<Array>(), nullptr})); }
Json Json::of(bool value) { return Json(std::make_shared<Node>(Node{value, nullptr})); }
Json Json::of(int64_t value) { return Json(std::make_shared<Node>(Node{value, nullptr})); }
Json Json::of(double value) { return Json(std::make_shared<Node>(Node{value, nullptr})); }
Json Json::of(std::string_view value) { return Json(std::make_shared<Node>(Node{std::string(value), nullptr})); }

Json Json::parse(std::string_view text, const std::string& source) {
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) {
    fail(location_message(source, ""), ": found no text, expected JSON");
  }
  Builder builder(source);
  const bool done = nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  check(done, location_message(source, ""), ": the text is no JSON");
  auto root = std::make_shared<Location>(Location{source, nullptr, ""});
  return Json(std::make_shared<Node>(Node{std::move(builder.result), std::move(root)}));
}

Json Json::read_file(const std::string& path) { return parse(matvlm::read_file(path), path); }

Json::Kind Json::kind() const { return static_cast<Kind>(node_->value.index()); }

namespace {

[[noreturn]] void fail_kind(const Json& json, const char* expected) {
  std::string found = name_of(json.kind());
  if (json.kind() <= Json::Kind::string && !json.is_null()) {
    std::string text = json.dump();
    if (text.size() > 60) text = printable(text.substr(0, 57)) + "...";
    found += cat(" (", text, ")");
  }
  fail(json.where(), ": found ", found, ", expected ", expected);
}

}  // namespace

bool Json::as_bool() const {
  if (const bool* value = std::get_if<bool>(&node_->value)) return *value;
  fail_kind(*this, name_of(Kind::boolean));
}

int64_t Json::as_int() const {
  if (const int64_t* value = std::get_if<int64_t>(&node_->value)) return *value;
  fail_kind(*this, name_of(Kind::integer));
}

double Json::as_double() const {
  if (const double* value = std::get_if<double>(&node_->value)) return *value;
  if (const int64_t* value = std::get_if<int64_t>(&node_->value)) return static_cast<double>(*value);
  fail_kind(*this, name_of(Kind::number));
}

std::string Json::as_string() const {
  if (const std::string* value = std::get_if<std::string>(&node_->value)) return *value;
  fail_kind(*this, name_of(Kind::string));
}

int64_t Json::size() const {
  if (const auto* array = std::get_if<std::shared_ptr<Array>>(&node_->value)) {
    return static_cast<int64_t>((*array)->items.size());
  }
  if (const auto* members = std::get_if<std::shared_ptr<Object>>(&node_->value)) {
    return static_cast<int64_t>((*members)->keys.size());
  }
  fail_kind(*this, "an array or an object");
}

Json Json::at(int64_t index) const {
  const auto* array = std::get_if<std::shared_ptr<Array>>(&node_->value);
  if (array == nullptr) fail_kind(*this, name_of(Kind::array));
  const std::vector<Value>& items = (*array)->items;
  if (index < 0 || index >= static_cast<int64_t>(items.size())) {
    fail(where(), ": found ", items.size(), " elements, expected one at [", index, "]");
  }
  return Json(node_->child(items[static_cast<size_t>(index)], cat("[", index, "]")));
}

Json Json::at(std::string_view key) const {
  const auto* members = std::get_if<std::shared_ptr<Object>>(&node_->value);
  if (members == nullptr) fail_kind(*this, name_of(Kind::object));
  const std::optional<size_t> position = (*members)->find(key);
  if (!position) fail(where(), ": found no key '", key, "', expected it");
  return Json(node_->child((*members)->values[*position], std::string(key)));
}

bool Json::has(std::string_view key) const {
  const auto* members = std::get_if<std::shared_ptr<Object>>(&node_->value);
  return members != nullptr && (*members)->find(key).has_value();
}

std::vector<std::string> Json::keys() const {
  const auto* members = std::get_if<std::shared_ptr<Object>>(&node_->value);
  if (members == nullptr) fail_kind(*this, name_of(Kind::object));
  return (*members)->keys;
}

bool Json::get(std::string_view key, bool otherwise) const {
  return has(key) && !at(key).is_null() ? at(key).as_bool() : otherwise;
}
int64_t Json::get(std::string_view key, int64_t otherwise) const {
  return has(key) && !at(key).is_null() ? at(key).as_int() : otherwise;
}
double Json::get(std::string_view key, double otherwise) const {
  return has(key) && !at(key).is_null() ? at(key).as_double() : otherwise;
}
std::string Json::get(std::string_view key, const char* otherwise) const {
  return has(key) && !at(key).is_null() ? at(key).as_string() : otherwise;
}

Json& Json::set(std::string_view key, const Json& value) {
  if (!is_object()) fail_kind(*this, name_of(Kind::object));
  const Value copy = value.node_->value;  // before the write: `value` may be this object
  if (node_.use_count() > 1) node_ = std::make_shared<Node>(*node_);
  writable<Object>(node_->value).set(key, copy);
  return *this;
}

Json& Json::push(const Json& value) {
  if (!is_array()) fail_kind(*this, name_of(Kind::array));
  const Value copy = value.node_->value;
  if (node_.use_count() > 1) node_ = std::make_shared<Node>(*node_);
  writable<Array>(node_->value).items.push_back(copy);
  return *this;
}

std::string Json::dump(int indent) const {
  Writer writer(indent);
  writer.write(node_->value, 0);
  return std::move(writer.text);
}

std::string Json::where() const {
  std::vector<const Location*> chain;
  std::string source;
  for (const Location* place = node_->location.get(); place != nullptr; place = place->parent.get()) {
    if (!place->source.empty()) source = place->source;
    chain.push_back(place);
  }
  std::string path;
  for (auto place = chain.rbegin(); place != chain.rend(); ++place) {
    const std::string& step = (*place)->step;
    if (!step.empty()) append_step(path, step, step.front() == '[');
  }
  return location_message(source, path);
}

}  // namespace matvlm
