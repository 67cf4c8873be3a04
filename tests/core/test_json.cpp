// Json: values, strictness, one-line errors that name source and path, value semantics, round trips.
#include "core/json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/file.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

using testing::contains;
using testing::error_of;

std::string parse_error(const std::string& text) {
  return error_of([&] { Json::parse(text, "f.json"); });
}

TEST(Json, ReadsEveryKind) {
  const Json json =
      Json::parse(R"({"n": null, "t": true, "i": -7, "d": 2.5, "s": "a\u00e9", "a": [1, 2], "o": {}})", "f");
  EXPECT_TRUE(json.at("n").is_null());
  EXPECT_TRUE(json.at("t").as_bool());
  EXPECT_EQ(json.at("i").as_int(), -7);
  EXPECT_EQ(json.at("d").as_double(), 2.5);
  EXPECT_EQ(json.at("i").as_double(), -7.0);
  EXPECT_EQ(json.at("s").as_string(), "a\xc3\xa9");
  EXPECT_EQ(json.at("a").at(1).as_int(), 2);
  EXPECT_EQ(json.at("o").size(), 0);
  EXPECT_EQ(json.keys(), (std::vector<std::string>{"n", "t", "i", "d", "s", "a", "o"}));
}

TEST(Json, GetTakesTheDefaultForMissingAndNull) {
  const Json json = Json::parse(R"({"n": null, "i": 3, "s": "x"})", "f");
  EXPECT_EQ(json.get("n", 5), 5);
  EXPECT_EQ(json.get("missing", 0.5), 0.5);
  EXPECT_EQ(json.get("i", 1.0), 3.0);
  EXPECT_EQ(json.get("s", "y"), "x");
  EXPECT_EQ(json.get("missing", true), true);
  EXPECT_FALSE(Json::of(int64_t{1}).has("x"));
  EXPECT_EQ(error_of([&] { json.get("s", 5); }), "f: key 's': found a string (\"x\"), expected an integer");
}

TEST(Json, ErrorsNameSourcePathFoundAndExpected) {
  const Json json = Json::parse(R"({"a": {"b": [1, {"c": "x"}]}})", "dir/f.json");
  const Json inner = json.at("a").at("b").at(1);
  EXPECT_EQ(inner.where(), "dir/f.json: key 'a.b[1]'");
  EXPECT_EQ(error_of([&] { inner.at("c").as_bool(); }),
            "dir/f.json: key 'a.b[1].c': found a string (\"x\"), expected a boolean");
  EXPECT_EQ(error_of([&] { inner.at("d"); }), "dir/f.json: key 'a.b[1]': found no key 'd', expected it");
  EXPECT_EQ(error_of([&] { json.at("a").at("b").at(2); }),
            "dir/f.json: key 'a.b': found 2 elements, expected one at [2]");
  EXPECT_EQ(error_of([&] { json.at(0); }), "dir/f.json: found an object, expected an array");
  EXPECT_EQ(error_of([&] { inner.at("c").size(); }),
            "dir/f.json: key 'a.b[1].c': found a string (\"x\"), expected an array or an object");
  EXPECT_EQ(error_of([] { Json::parse("18446744073709551615", "f").as_int(); }),
            "f: found a number (18446744073709551616.0), expected an integer");
  EXPECT_EQ(error_of([] { Json::parse("1.0", "f").as_int(); }), "f: found a number (1.0), expected an integer");
}

TEST(Json, ChildOutlivesItsParentAndKeepsItsPath) {
  Json child;
  {
    const Json json = Json::parse(R"({"a": [10, 20]})", "f");
    child = json.at("a").at(1);
  }
  EXPECT_EQ(child.as_int(), 20);
  EXPECT_EQ(child.where(), "f: key 'a[1]'");
}

TEST(Json, DuplicateKeysAreRefused) {
  EXPECT_EQ(parse_error(R"({"a": {"k": 1, "x": 0, "k": 1}})"),
            "f.json: key 'a.k': found the key more than once, expected once");
  EXPECT_EQ(parse_error(R"([{"k": 1}, {"k": 2, "\u006b": 3}])"),
            "f.json: key '[1].k': found the key more than once, expected once");
  EXPECT_EQ(parse_error(R"({"a\nb": 1, "a\nb": 1})"), "f.json: key 'a?b': found the key more than once, expected once");
}

TEST(Json, DepthIsLimited) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_EQ(parse_error(nested(128)), "no error");
  EXPECT_EQ(parse_error(nested(129)), "f.json: found values nested deeper than 128, expected at most 128");
  std::string deep;  // clang-tidy takes a constructor's length of this size for a mistake
  deep.resize(10'000'000, '[');
  EXPECT_TRUE(contains(parse_error(deep), "nested deeper"));
}

TEST(Json, BadTextIsRefusedInOneLine) {
  const std::vector<std::string> texts = {
      "",        "  \n",   "{",          "[1,]",         "{\"a\" 1}",    "[1] 2",       "nul",
      "[1e999]", "\"\n\"", "[01]",       "[NaN]",        "\"\xff\xfe\"", "\"\\ud800\"", "{'a':1}",
      "[1] x",   "\"abc",  "{\"a\":1,}", "\"\xc0\xaf\"", "// c\n1"};
  for (const std::string& text : texts) {
    const std::string message = parse_error(text);
    EXPECT_TRUE(message.starts_with("f.json: ")) << text << " -> " << message;
    EXPECT_FALSE(contains(message, "\n")) << message;
  }
  EXPECT_TRUE(parse_error("{\"a\": {\"b\": [1, x]}}").starts_with("f.json: key 'a.b[1]': parse error at line 1"));
  EXPECT_EQ(parse_error(""), "f.json: found no text, expected JSON");
}

TEST(Json, EveryTruncationIsRefused) {
  const std::string text = R"({"a": [1, 2.5, "x\n", true, null], "b": {"c": "\u00e9"}})";
  for (size_t n = 0; n < text.size(); ++n) EXPECT_NE(parse_error(text.substr(0, n)), "no error") << n;
  EXPECT_EQ(parse_error(text), "no error");
}

TEST(Json, BuildsAndDumps) {
  Json json = Json::object();
  json.set("z", 1).set("a", "q\"\\\n").set("d", 0.1).set("b", false).set("big", int64_t{1} << 60);
  json.set("list", Json::array().push(Json::of(int64_t{1})).push(Json()).push(Json::object()));
  json.set("z", 2);
  const std::string line = R"({"z":2,"a":"q\"\\\n","d":0.1,"b":false,"big":1152921504606846976,"list":[1,null,{}]})";
  EXPECT_EQ(json.dump(), line);
  EXPECT_EQ(Json::parse(line, "f").dump(), line);
  EXPECT_EQ(Json::parse(json.dump(2), "f").dump(), line);
  EXPECT_EQ(Json::object().set("a", Json::array().push(Json::of(true))).dump(2), "{\n  \"a\": [\n    true\n  ]\n}");
  EXPECT_EQ(error_of([&] { json.push(Json()); }), "JSON: found an object, expected an array");
}

TEST(Json, NumbersRoundTrip) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double value : {0.1, 1.0, -0.0, 1e300, 5e-324, 1.0 / 3.0, 123456789.0, std::nextafter(1.0, 2.0)}) {
    const Json json = Json::parse(Json::of(value).dump(), "f");
    EXPECT_EQ(json.kind(), Json::Kind::number);
    EXPECT_EQ(json.as_double(), value);
    EXPECT_EQ(std::signbit(json.as_double()), std::signbit(value));
  }
  EXPECT_EQ(Json::of(infinity).dump(), "null");
  EXPECT_EQ(Json::of(std::nan("")).dump(), "null");
  const int64_t least = std::numeric_limits<int64_t>::min();
  EXPECT_EQ(Json::parse(Json::of(least).dump(), "f").as_int(), least);
}

TEST(Json, InvalidUtf8IsReplacedWhenWritten) {
  EXPECT_EQ(Json::of(std::string_view("a\xe2\x82")).dump(), "\"a\xef\xbf\xbd\"");
}

TEST(Json, CopiesAreIndependent) {
  Json first = Json::parse(R"({"a": {"b": 1}})", "f");
  Json second = first;
  second.set("c", 2);
  Json child = first.at("a");
  child.set("b", 9);
  EXPECT_EQ(first.dump(), R"({"a":{"b":1}})");
  EXPECT_EQ(second.dump(), R"({"a":{"b":1},"c":2})");
  EXPECT_EQ(child.dump(), R"({"b":9})");
  first.set("self", first);
  EXPECT_EQ(first.dump(), R"({"a":{"b":1},"self":{"a":{"b":1}}})");
}

TEST(Json, LargeObjectsAreFound) {
  std::string text = "{";
  for (int i = 0; i < 50000; ++i) text += cat(i > 0 ? "," : "", "\"k", i, "\":", i);
  const Json json = Json::parse(text + "}", "f");
  for (int i = 0; i < 50000; ++i) ASSERT_EQ(json.at(cat("k", i)).as_int(), i);
}

TEST(Json, ReadsFiles) {
  const testing::TempDir folder;
  write_file_atomic(folder.file("a.json"), "{\"x\": 1}\n");
  EXPECT_EQ(Json::read_file(folder.file("a.json")).at("x").as_int(), 1);
  EXPECT_TRUE(contains(error_of([&] { Json::read_file(folder.file("none.json")); }), "none.json: cannot open"));
  write_file_atomic(folder.file("empty.json"), "");
  EXPECT_TRUE(contains(error_of([&] { Json::read_file(folder.file("empty.json")); }), "found no text, expected JSON"));
}

}  // namespace
}  // namespace matvlm
