// Arrays read element by element: the same elements as a whole parse gives, across block borders, and every way in
// which a file can be cut or broken.
#include "core/json_array_reader.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "tests/support/temp_dir.h"

namespace matvlm::testing {
namespace {

using Texts = std::vector<std::string>;

class JsonArrays : public ::testing::Test {
 protected:
  std::string path() const { return folder_.file("a.json"); }
  Texts elements_of(const std::string& content) {
    write_file_atomic(path(), content);
    JsonArrayReader reader(path());
    Texts out;
    for (std::string text; reader.next(text);) out.push_back(text);
    return out;
  }
  std::string error_for(const std::string& content) {
    try {
      elements_of(content);
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_TRUE(message.starts_with(path() + ": ")) << message;
      return message.substr(path().size() + 2);
    }
    return "no error";
  }
  TempDir folder_;
};

TEST_F(JsonArrays, Elements) {
  EXPECT_EQ(elements_of("[]"), Texts{});
  EXPECT_EQ(elements_of(" [ \n] \n"), Texts{});
  EXPECT_EQ(elements_of("[1, \"a,]b\" ,{\"k\": [1, 2]},[3]]\n"), (Texts{"1", "\"a,]b\"", "{\"k\": [1, 2]}", "[3]"}));
  EXPECT_EQ(elements_of(R"(["\\", "\"],", "\\\""])"), (Texts{R"("\\")", R"("\"],")", R"("\\\"")"}));
}

// Elements of every length around the block size, so that borders fall on every kind of character.
TEST_F(JsonArrays, BlockBordersDoNotMatter) {
  std::string content = "[";
  Texts wanted;
  for (int i = 0; i < 40; ++i) {
    const std::string filler((size_t{1} << 17) + static_cast<size_t>(i) * 3, 'x');
    wanted.push_back(R"({"i": ")" + filler + R"(\\\"],", "n": [1, {"m": "}"}]})");
    content += (i == 0 ? "" : ", \n") + wanted.back();
  }
  const Texts found = elements_of(content + "]");
  EXPECT_EQ(found, wanted);
  for (const std::string& text : found) EXPECT_EQ(Json::parse(text, "x").at("n").size(), 2);
}

TEST_F(JsonArrays, GoesOnFromEveryPlace) {
  const Texts all = elements_of("[10, [2], {\"a\": 3} ,\"4\"]");
  for (size_t stop = 0; stop < all.size(); ++stop) {
    JsonArrayReader first(path());
    std::string text;
    for (size_t i = 0; i <= stop; ++i) ASSERT_TRUE(first.next(text));
    JsonArrayReader second(path());
    second.resume(first.index(), first.position());
    for (size_t i = stop + 1; i < all.size(); ++i) {
      ASSERT_TRUE(second.next(text));
      EXPECT_EQ(text, all[i]);
      EXPECT_EQ(second.index(), static_cast<int64_t>(i));
    }
    EXPECT_FALSE(second.next(text));
    EXPECT_FALSE(second.next(text));
  }
  JsonArrayReader reader(path());
  EXPECT_THROW(reader.resume(0, 1000), Error);
}

TEST_F(JsonArrays, BrokenFiles) {
  EXPECT_EQ(error_for(""), "found the end of the file at the beginning, expected an array of samples");
  EXPECT_EQ(error_for("{}"), "found '{' at the beginning, expected an array of samples");
  EXPECT_EQ(error_for("[1, 2"), "byte 5: found the end of the file in element 1, expected more of it");
  EXPECT_EQ(error_for("["), "byte 1: found the end of the file in element 0, expected more of it");
  EXPECT_EQ(error_for("[1,]"), "byte 3: found no element before ']', expected one");
  EXPECT_EQ(error_for("[,1]"), "byte 1: found no element before ',', expected one");
  EXPECT_EQ(error_for("[1}"), "byte 2: found '}' after element 0, expected ',' or ']'");
  EXPECT_EQ(error_for("[1] x"), "byte 4: found 'x' after the array, expected the end of the file");
  EXPECT_EQ(error_for("[\"abc]"), "byte 6: found the end of the file in element 0, expected more of it");
  EXPECT_EQ(error_for("[" + std::string((size_t{1} << 26) + 2, '1') + "]"),
            "byte 67108865: found an element of more than 67108864 bytes, expected less");
  EXPECT_THROW(JsonArrayReader(folder_.file("none.json")), Error);
  EXPECT_THROW(JsonArrayReader(folder_.path()), Error);
}

}  // namespace
}  // namespace matvlm::testing
