// Packing: what comes out for good samples, what is counted for bad ones, how an ended packing goes on.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "core/file.h"
#include "data/batch.h"
#include "data/bpe_trainer.h"
#include "data/dataset.h"
#include "data/image.h"
#include "data/pack.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;

using testing::error_of;
using testing::expect_message;

std::string png_of(uint8_t grey) {
  Image image{4, 3, std::vector<uint8_t>(36, grey)};
  const std::vector<uint8_t> bytes = encode_png(image);
  return {bytes.begin(), bytes.end()};
}

std::string entry(const std::string& id, const std::string& image, const std::string& question,
                  const std::string& answer) {
  return R"({"id": ")" + id + "\"" + (image.empty() ? "" : R"(, "image": ")" + image + "\"") +
         R"(, "category": "name", "conversations": [{"from": "human", "value": ")" + question +
         R"("}, {"from": "gpt", "value": ")" + answer + R"("}]})";
}

class JsonLines : public std::vector<Json> {
 public:
  explicit JsonLines(const std::string& text) {
    for (size_t at = 0; at < text.size();) {
      const size_t end = text.find('\n', at);
      push_back(Json::parse(text.substr(at, end - at), "line"));
      at = end + 1;
    }
  }
};

// All that a pack holds, as one text a sample.
struct PackContent {
  explicit PackContent(const std::string& path) {
    const Dataset data(path);
    for (int64_t i = 0; i < data.size(); ++i) {
      const PackedSample sample = data.sample(i);
      std::string text = data.sample_id(i) + ":";
      for (const int32_t id : sample.input_ids) text += cat(" ", id);
      for (const int32_t label : sample.labels) text += cat(" ", label);
      for (const Turn& turn : data.turns(i)) text += cat("|", turn.question, "|", turn.answer, "|", turn.category);
      if (sample.image >= 0) {
        const std::vector<uint8_t> bytes = data.image_bytes(sample.image);
        text += cat("|", sample.image, data.image_name(sample.image), std::string(bytes.begin(), bytes.end()));
      }
      rows.push_back(text);
    }
  }
  std::vector<std::string> rows;
};

class Pack : public ::testing::Test {
 protected:
  Pack()
      : tokenizer_(train_bpe({"What is it? a red ball, a blue ball"}, BpeTrainerOptions{300, {"<|endoftext|>"}, 1})) {
    fs::create_directories(dir_.file("images"));
    write_file_atomic(dir_.file("images/a.png"), png_of(10));
    write_file_atomic(dir_.file("images/same.png"), png_of(10));
    write_file_atomic(dir_.file("images/b.png"), png_of(200));
    write_file_atomic(dir_.file("images/broken.png"), png_of(200).substr(0, 40));
    options_.json_path = dir_.file("data.json");
    options_.image_folder = dir_.file("images");
    options_.output = dir_.file("data.h5");
    options_.tokens_per_image = 5;
    options_.max_length = 400;
  }

  PackReport pack(const std::vector<std::string>& entries) {
    std::string text;
    for (const std::string& one : entries) text += (text.empty() ? "[" : ",\n ") + one;
    write_file_atomic(options_.json_path, text + "]");
    return pack_dataset(options_, tokenizer_);
  }

  testing::TempDir dir_;
  Tokenizer tokenizer_;
  PackOptions options_;
};

TEST_F(Pack, SamplesPicturesAndTextsComeBack) {
  const PackReport report = pack(
      {entry("one", "a.png", "<image>\\nWhat is it?", "a red ball"), entry("two", "", "What is it?", "a blue ball"),
       entry("three", "same.png", "What is it? <image>", "ball"), entry("four", "b.png", "<image>", " red")});
  EXPECT_EQ(report.samples, 4);
  EXPECT_EQ(report.text_only, 1);
  EXPECT_EQ(report.images, 2);
  EXPECT_EQ(report.image_bytes, static_cast<int64_t>(png_of(10).size() + png_of(200).size()));
  EXPECT_EQ(report.cut_samples, 0);
  EXPECT_TRUE(report.skipped.empty());
  const Dataset data(options_.output, {tokenizer_.vocab_size(), 5, 400, tokenizer_.sha256()});
  ASSERT_EQ(data.size(), 4);
  EXPECT_EQ(data.n_images(), 2);
  EXPECT_EQ(data.n_tokens(), report.tokens);
  EXPECT_EQ(data.info().template_name, "phi");
  EXPECT_EQ(data.image_of_sample(0), 0);
  EXPECT_EQ(data.image_of_sample(1), -1);
  EXPECT_EQ(data.image_of_sample(2), 0);
  EXPECT_EQ(data.image_of_sample(3), 1);
  const std::vector<uint8_t> bytes = data.image_bytes(1);
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), png_of(200));
  EXPECT_EQ(data.image_name(0), "a.png");
  EXPECT_EQ(data.sample_id(2), "three");
  ASSERT_EQ(data.n_turns(0), 1);
  EXPECT_EQ(data.turns(0)[0].question, "<image>\nWhat is it?");
  EXPECT_EQ(data.turns(3)[0].answer, " red");
  EXPECT_EQ(data.turns(1)[0].category, "name");
  int64_t labels = 0;
  for (int64_t i = 0; i < 4; ++i) {
    const PackedSample sample = data.sample(i);
    const EncodedConversation expected = encode_conversation(data.turns(i), find_template("phi"), tokenizer_);
    EXPECT_EQ(sample.input_ids, expected.input_ids);
    EXPECT_EQ(sample.labels, expected.labels);
    labels += count_labels_after_splice(expected, 5, 400);
  }
  EXPECT_EQ(report.counted_labels, labels);
  EXPECT_THROW(data.sample(4), Error);
  EXPECT_THROW(data.sample(-1), Error);
  EXPECT_THROW(data.image_bytes(2), Error);
}

TEST_F(Pack, SamplesWithoutAnAnswerAreSkippedAndCounted) {
  const std::string good = entry("g", "", "What is it?", "a ball");
  const int64_t length = static_cast<int64_t>(
      encode_conversation({{"What is it?", "a ball", ""}}, find_template("phi"), tokenizer_).input_ids.size());
  options_.max_length = length;
  options_.tokens_per_image = 40;
  const PackReport report =
      pack({good, entry("long", "", "What is it? What is it? What is it? What is it?", "a ball"),
            entry("picture", "a.png", "<image>", "a ball"), entry("cut", "", "What is it?", "a ball ball ball ball"),
            entry("copy", "", "What? ASSISTANT: <|endoftext|>", "a ball")});
  EXPECT_EQ(report.samples, 2);  // `good`, and `cut`, of which the beginning of the answer is left
  EXPECT_EQ(report.cut_samples, 1);
  EXPECT_EQ(report.skipped, (std::map<std::string, int64_t>{{"no answer left", 2}, {"pieces do not add up", 1}}));
  ASSERT_EQ(report.messages.size(), 3U);
  expect_message(report.messages[0], options_.json_path + ": sample 1 (id 'long'): ", "no answer within max_length");
  const Dataset data(options_.output);
  EXPECT_EQ(data.info().skipped, report.skipped);
  EXPECT_EQ(data.length(0), length);
  EXPECT_EQ(data.length(1), length);
}

TEST_F(Pack, BadSamplesStopThePackingOrAreCounted) {
  const std::vector<std::string> entries = {entry("g", "", "What?", "ball"),
                                            entry("x1", "", "<image>", "ball"),
                                            entry("x2", "broken.png", "<image>", "ball"),
                                            entry("x3", "../data.json", "<image>", "ball"),
                                            entry("x4", "a.png", "What?", "ball"),
                                            entry("x5", "", "What?", "ball <image>")};
  for (size_t i = 1; i < entries.size(); ++i) {
    const std::string message = error_of([&] { pack({entries[0], entries[i]}); });
    expect_message(message, options_.json_path + ": sample 1 (id 'x", "");
    EXPECT_FALSE(fs::exists(options_.output));
  }
  options_.skip_bad = true;
  const PackReport report = pack(entries);
  EXPECT_EQ(report.samples, 1);
  EXPECT_EQ(report.skipped, (std::map<std::string, int64_t>{{"image mark without a picture", 1},
                                                            {"broken picture", 1},
                                                            {"picture outside the folder", 1},
                                                            {"picture without an image mark", 1},
                                                            {"image mark in an answer", 1}}));
  EXPECT_EQ(report.messages.size(), 5U);
  EXPECT_EQ(Dataset(options_.output).size(), 1);
  expect_message(error_of([&] { pack({entries[1]}); }), options_.json_path, "no sample to learn from among 1");
  EXPECT_EQ(Dataset(options_.output).size(), 1);  // the older file is still there
}

TEST_F(Pack, EverySampleLeftOutIsReported) {
  options_.skip_bad = true;
  pack({entry("g", "", "What?", "ball"), entry("x1", "", "<image>", "ball"), "{\"id\": 3}",
        entry("x2", "", "What? ASSISTANT: ", "ball")});
  JsonLines lines(read_file(options_.output + ".skipped.jsonl"));
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(lines[0].at("index").as_int(), 1);
  EXPECT_EQ(lines[0].at("reason").as_string(), "image mark without a picture");
  EXPECT_EQ(lines[1].at("reason").as_string(), "malformed");
  EXPECT_EQ(lines[2].at("id").as_string(), "x2");
  EXPECT_EQ(lines[2].at("reason").as_string(), "pieces do not add up");
  EXPECT_NE(lines[2].at("message").as_string().find("sample 3 (id 'x2')"), std::string::npos);
  pack({entry("g", "", "What?", "ball")});
  EXPECT_FALSE(fs::exists(options_.output + ".skipped.jsonl"));
}

// A packing that is killed after every number of samples goes on where its last part ended, and gives the same data.
TEST_F(Pack, AnEndedPackingGoesOn) {
  const std::vector<std::string> entries = {entry("a", "a.png", "<image>What?", "a red ball"),
                                            entry("b", "", "What is it?", "a ball"),
                                            entry("bad", "", "<image>", "ball"),
                                            entry("c", "same.png", "What?<image>", "ball"),
                                            entry("d", "b.png", "<image>", "a blue ball"),
                                            entry("e", "", "What? ASSISTANT: ", "ball"),
                                            entry("f", "a.png", "<image>", "ball"),
                                            entry("g", "", "What?", "")};
  options_.skip_bad = true;
  const PackReport whole = pack(entries);
  const std::string skipped = read_file(options_.output + ".skipped.jsonl");
  const PackContent wanted(options_.output);
  options_.part_samples = 2;
  for (int64_t killed_after = 1; killed_after <= 9; ++killed_after) {  // 9: while the parts of all 8 are joined
    fs::remove(options_.output);
    const pid_t child = fork();
    if (child == 0) {
      pack_dataset(options_, tokenizer_, [&](const PackProgress& at) {
        const bool joining = at.phase == "joining parts" && at.bytes > 0;
        if (killed_after == 9 ? joining : at.samples == killed_after) _exit(77);
      });
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_EQ(WEXITSTATUS(status), 77);
    EXPECT_FALSE(fs::exists(options_.output));
    int64_t first = 0;
    std::vector<PackProgress> joining;
    const PackReport report = pack_dataset(options_, tokenizer_, [&](const PackProgress& at) {
      if (first == 0) first = at.samples;
      if (at.phase != "packing") joining.push_back(at);
    });
    EXPECT_EQ(report.resumed_samples, std::min<int64_t>(killed_after - 1, 6) / 2 * 2);
    ASSERT_EQ(joining.size(), 4U);
    for (size_t part = 0; part < joining.size(); ++part) {
      EXPECT_EQ(joining[part].samples, 8);
      EXPECT_TRUE(part == 0 ? joining[part].bytes == 0 : joining[part].bytes > joining[part - 1].bytes);
      EXPECT_LT(joining[part].bytes, joining[part].total_bytes);
    }
    EXPECT_EQ(first, report.resumed_samples + 1);
    EXPECT_EQ(report.samples, whole.samples);
    EXPECT_EQ(report.images, whole.images);
    EXPECT_EQ(report.tokens, whole.tokens);
    EXPECT_EQ(report.counted_labels, whole.counted_labels);
    EXPECT_EQ(report.skipped, whole.skipped);
    EXPECT_EQ(report.messages, whole.messages);
    EXPECT_EQ(PackContent(options_.output).rows, wanted.rows);
    EXPECT_EQ(read_file(options_.output + ".skipped.jsonl"), skipped);
    EXPECT_FALSE(fs::exists(options_.output + ".parts"));
  }
}

TEST_F(Pack, PartsOfAnotherPackingAreNotUsed) {
  options_.part_samples = 1;
  const std::vector<std::string> entries = {entry("a", "a.png", "<image>What?", "a red ball"),
                                            entry("b", "", "What is it?", "a ball"), entry("x", "", "<image>", "a")};
  EXPECT_NE(error_of([&] { pack(entries); }), "no error");
  EXPECT_TRUE(fs::exists(options_.output + ".parts/part-000001.json"));
  options_.max_length = 399;
  options_.skip_bad = true;
  EXPECT_EQ(pack_dataset(options_, tokenizer_).resumed_samples, 0);
  EXPECT_EQ(Dataset(options_.output).size(), 2);
  EXPECT_FALSE(fs::exists(options_.output + ".parts"));
}

// A template file may change under its name, and a pack may have no pictures.
TEST_F(Pack, PartsBelongToTheTemplateItself) {
  options_.part_samples = 1;
  options_.image_folder.clear();
  options_.form = find_template("phi");
  const std::vector<std::string> entries = {entry("a", "", "What?", "a red ball"), entry("b", "", "What is it?", "a"),
                                            entry("x", "", "<image>", "a")};
  EXPECT_NE(error_of([&] { pack(entries); }), "no error");
  options_.form->system = "Other words.";
  EXPECT_NE(error_of([&] { pack_dataset(options_, tokenizer_); }), "no error");
  int64_t first = 0;
  const auto count_first = [&](const PackProgress& at) { first = first == 0 ? at.samples : first; };
  EXPECT_NE(error_of([&] { pack_dataset(options_, tokenizer_, count_first); }), "no error");
  EXPECT_EQ(first, 0);  // goes on at the sample that ended it
  options_.form->system = "Again others.";
  EXPECT_NE(error_of([&] { pack_dataset(options_, tokenizer_, count_first); }), "no error");
  EXPECT_EQ(first, 1);  // from the start
}

TEST_F(Pack, BadOptionsAndProgress) {
  const std::string good = entry("g", "", "What?", "ball");
  pack({good, good});
  std::vector<int64_t> done;
  pack_dataset(options_, tokenizer_, [&](const PackProgress& at) {
    EXPECT_EQ(at.total_bytes, static_cast<int64_t>(fs::file_size(options_.json_path)));
    EXPECT_EQ(at.bytes > at.total_bytes / 3, true);
    done.push_back(at.samples);
  });
  EXPECT_EQ(done, (std::vector<int64_t>{1, 2}));
  options_.template_name = "none";
  expect_message(error_of([&] { pack({good}); }), "template: ", "expected 'phi'");
  options_.template_name = "phi";
  options_.max_length = 0;
  expect_message(error_of([&] { pack({good}); }), "pack: ", "max_length 0");
}

TEST_F(Pack, AnotherUseThanThePackWasMadeForIsRefused) {
  pack({entry("g", "", "What?", "ball")});
  const std::string path = options_.output;
  const auto open_with = [&](const PackExpectation& expected) { return error_of([&] { Dataset(path, expected); }); };
  EXPECT_EQ(open_with({300, 5, 400, tokenizer_.sha256()}), "no error");
  expect_message(open_with({100, 0, 0, ""}), path + ": sample 0", "outside the vocabulary, expected 0..99");
  expect_message(open_with({0, 6, 0, ""}), path, "'tokens_per_image': found 5, expected 6");
  expect_message(open_with({0, 0, 401, ""}), path, "'max_length': found 400, expected 401");
  expect_message(open_with({0, 0, 0, "abc"}), path, "'tokenizer_sha256'");
}

}  // namespace
}  // namespace matvlm
