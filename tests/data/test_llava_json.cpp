// LLaVA JSON: what is read, and one line with file, index and id for every kind of bad sample.
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>

#include "core/error.h"
#include "core/file.h"
#include "data/llava_json.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;

class LlavaJson : public ::testing::Test {
 protected:
  LlavaJson() {
    fs::create_directories(dir_.file("images/sub"));
    write_file_atomic(dir_.file("images/a.png"), "picture");
    write_file_atomic(dir_.file("images/sub/b.png"), "picture");
    write_file_atomic(dir_.file("secret.png"), "picture");
    fs::create_symlink(dir_.file("secret.png"), dir_.file("images/link.png"));
    fs::create_symlink(dir_.path(), dir_.file("images/up"));
    fs::create_symlink(dir_.file("images/a.png"), dir_.file("images/fine.png"));
  }

  std::unique_ptr<LlavaFile> file_of(const std::string& text) {
    write_file_atomic(path(), text);
    return std::make_unique<LlavaFile>(path(), dir_.file("images"));
  }
  std::string path() const { return dir_.file("data.json"); }

  // Reads a file whose second sample is `sample` and expects its rejection.
  void expect_rejected(const std::string& sample, const std::string& reason, const std::string& part) {
    const std::string good =
        R"({"id": "g", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]})";
    const auto file = file_of("[" + good + "," + sample + "]");
    ASSERT_TRUE(file->next());
    EXPECT_EQ(file->sample().id, "g");
    ASSERT_TRUE(file->next());
    try {
      file->sample();
      FAIL() << "accepted: " << sample;
    } catch (const SampleError& error) {
      const std::string message = error.what();
      EXPECT_EQ(error.reason(), reason) << message;
      EXPECT_TRUE(message.starts_with(path() + ": sample 1")) << message;
      EXPECT_NE(message.find(part), std::string::npos) << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      if (sample.find("\"id\"") != std::string::npos) {
        EXPECT_NE(message.find("(id 'x7')"), std::string::npos) << message;
      }
    }
  }

  testing::TempDir dir_;
};

std::string sample_of(const std::string& extra, const std::string& question, const std::string& answer) {
  return R"({"id": "x7", )" + extra + R"("conversations": [{"from": "human", "value": ")" + question +
         R"("}, {"from": "gpt", "value": ")" + answer + R"("}]})";
}

TEST_F(LlavaJson, ReadsTurnsImagesAndCategories) {
  const auto file = file_of(R"([
    {"id": 12, "image": "sub/b.png", "categories": ["name", "yes_no", "group"], "model": "ignored", "conversations": [
      {"from": "human", "value": "<image>\nq1"}, {"from": "gpt", "value": "a1"},
      {"from": "human", "value": "q2"}, {"from": "gpt", "value": " a2"},
      {"from": "human", "value": "q3"}, {"from": "gpt", "value": "a3"}]},
    {"id": "t", "image": null, "category": "all", "conversations": [{"from": "gpt", "value": "hello"},
      {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"id": "s", "image": "fine.png", "conversations": [{"from": "human", "value": "q <image>"},
      {"from": "gpt", "value": "a"}]}])");
  ASSERT_TRUE(file->next());
  const ConversationSample first = file->sample();
  EXPECT_EQ(first.id, "12");
  EXPECT_EQ(first.image, "sub/b.png");
  EXPECT_TRUE(fs::equivalent(first.image_path, dir_.file("images/sub/b.png")));
  ASSERT_EQ(first.turns.size(), 3U);
  EXPECT_EQ(first.turns[0].question, "<image>\nq1");
  EXPECT_EQ(first.turns[1].answer, " a2");
  EXPECT_EQ(first.turns[0].category, "name");
  EXPECT_EQ(first.turns[1].category, "yes_no");
  EXPECT_EQ(first.turns[2].category, "group");
  ASSERT_TRUE(file->next());
  const ConversationSample second = file->sample();
  EXPECT_EQ(second.image, "");
  ASSERT_EQ(second.turns.size(), 1U);  // the greeting answers nothing
  EXPECT_EQ(second.turns[0].category, "all");
  ASSERT_TRUE(file->next());
  EXPECT_EQ(file->sample().image, "fine.png");
  EXPECT_EQ(file->sample().turns[0].category, "");
  EXPECT_EQ(file->index(), 2);
  const int64_t place = file->position();
  EXPECT_FALSE(file->next());
  EXPECT_FALSE(file->next());
  LlavaFile again(path(), dir_.file("images"));
  again.resume(2, place);
  EXPECT_FALSE(again.next());
}

TEST_F(LlavaJson, ImageMarksAndPictures) {
  expect_rejected(sample_of("", "<image> q", "a"), "image mark without a picture", "no key 'image'");
  expect_rejected(sample_of(R"("image": "a.png", )", "q", "a"), "picture without an image mark", "'a.png'");
  expect_rejected(sample_of(R"("image": "a.png", )", "<image><image> q", "a"), "two images", "2 <image> marks");
  expect_rejected(sample_of(R"("image": ["a.png", "a.png"], )", "<image> q", "a"), "two images", "2 pictures");
  expect_rejected(sample_of(R"("image": "a.png", )", "q", "a <image>"), "image mark in an answer", "in an answer");
  expect_rejected(sample_of(R"("image": "none.png", )", "<image> q", "a"), "missing picture", "none.png");
  expect_rejected(sample_of(R"("image": "sub", )", "<image> q", "a"), "missing picture", "sub");
  expect_rejected(sample_of(R"("image": "", )", "<image> q", "a"), "malformed", "empty 'image'");
  expect_rejected(sample_of(R"("image": 5, )", "<image> q", "a"), "malformed", "expected");
}

TEST_F(LlavaJson, PicturePathsThatEscapeTheFolder) {
  for (const std::string& bad : {dir_.file("secret.png"), dir_.file("images/a.png"), std::string("../secret.png"),
                                 std::string("sub/../a.png"), std::string("sub/../../secret.png"),
                                 std::string("link.png"), std::string("up/secret.png"), std::string("..")}) {
    expect_rejected(sample_of("\"image\": \"" + bad + "\", ", "<image> q", "a"), "picture outside the folder", bad);
  }
}

TEST_F(LlavaJson, TurnsAndKeys) {
  expect_rejected(sample_of(R"("categories": ["a", "b"], )", "q", "a"), "malformed", "expected an array of 1");
  expect_rejected(sample_of(R"("categories": "a", )", "q", "a"), "malformed", "expected an array of 1");
  expect_rejected(sample_of(R"("categories": [1], )", "q", "a"), "malformed", "categories[0]");
  const std::string head = R"({"id": "x7", "conversations": )";
  expect_rejected(head + R"([{"from": "system", "value": "q"}]})", "unknown speaker",
                  "found from 'system' in conversations[0], expected 'human' or 'gpt'");
  expect_rejected(head + R"([{"from": "human", "value": "q"}]})", "turns do not alternate", "without an answer");
  expect_rejected(head + R"([{"from": "human", "value": "q"}, {"from": "human", "value": "q"}]})",
                  "turns do not alternate", "expected 'gpt'");
  expect_rejected(head + "[]}", "no question", "no question");
  expect_rejected(head + R"([{"from": "gpt", "value": "a"}]})", "no question", "no question");
  expect_rejected(head + R"([{"from": "human"}]})", "malformed", "value");
  expect_rejected(head + R"([{"value": "q"}]})", "malformed", "from");
  expect_rejected(head + R"([{"from": "human", "value": 3}]})", "malformed", "expected");
  expect_rejected(head + "3}", "malformed", "conversations");
  expect_rejected(R"({"id": "x7"})", "malformed", "conversations");
  expect_rejected(R"({"conversations": []})", "malformed", "id");
  expect_rejected("3", "malformed", "expected");
  expect_rejected(R"({"key": 8, })", "malformed", "parse error");
}

// Published trainers learn the end token then.
TEST_F(LlavaJson, AnswersMayBeEmpty) {
  for (const char* answer : {"", " \\n "}) {
    const auto file = file_of("[" + sample_of("", "q", answer) + "]");
    ASSERT_TRUE(file->next());
    EXPECT_EQ(file->sample().turns[0].answer, answer[0] == ' ' ? " \n " : "");
  }
}

TEST_F(LlavaJson, EmptyTruncatedAndMissingFiles) {
  const std::string whole = "[" + sample_of("", "q", "a") + "]";
  for (const std::string& text :
       {std::string(), whole.substr(0, whole.size() / 2), std::string("[]"), std::string("{}"), whole + "x"}) {
    try {
      const auto file = file_of(text);
      while (file->next()) file->sample();
      FAIL() << text;
    } catch (const Error& error) {
      EXPECT_TRUE(std::string(error.what()).starts_with(path())) << error.what();
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    }
  }
  EXPECT_THROW(LlavaFile(dir_.file("none.json"), dir_.path()), Error);
}

}  // namespace
}  // namespace matvlm
