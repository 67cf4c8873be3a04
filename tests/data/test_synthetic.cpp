// The generated data set: same bytes twice, held-out combinations, and pictures that show what the answers say.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "data/image.h"
#include "data/synthetic.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

std::map<std::string, std::string> files_of(const SyntheticOptions& options) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(options.out)) {
    if (entry.is_regular_file()) {
      files[std::filesystem::relative(entry.path(), options.out)] = read_file(entry.path());
    }
  }
  return files;
}

std::string message_of(const SyntheticOptions& options) {
  try {
    make_synthetic_dataset(options);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// Answers of the sample by category.
std::map<std::string, std::string> answers_of(const Json& sample) {
  std::map<std::string, std::string> answers;
  for (int64_t t = 0; t < sample.at("categories").size(); ++t) {
    const std::string question = sample.at("conversations").at(2 * t).at("value").as_string();
    EXPECT_EQ(question.rfind("<image>\n", 0) == 0, t == 0 && sample.has("image")) << question;
    answers[sample.at("categories").at(t).as_string()] =
        sample.at("conversations").at(2 * t + 1).at("value").as_string();
  }
  return answers;
}

TEST(Synthetic, SameOptionsGiveTheSameBytes) {
  const testing::TempDir dir;
  SyntheticOptions options{dir.file("one"), 40, 32, 5};
  make_synthetic_dataset(options);
  const auto first = files_of(options);
  EXPECT_EQ(first.size(), 3U + 35 + 21);  // every eighth of 40 + 24 samples has no picture
  options.out = dir.file("two");
  make_synthetic_dataset(options);
  EXPECT_EQ(files_of(options), first);
  options.seed = 6;
  make_synthetic_dataset(options);
  EXPECT_NE(files_of(options).at("train.json"), first.at("train.json"));
}

TEST(Synthetic, Layout) {
  const testing::TempDir dir;
  const SyntheticOptions options{dir.file("set"), 200, 16, 0};
  const SyntheticReport report = make_synthetic_dataset(options);
  const Json train = Json::read_file(options.out + "/train.json");
  const Json held_out = Json::read_file(options.out + "/heldout.json");
  EXPECT_EQ(train.size(), 200);
  EXPECT_EQ(held_out.size(), 50);
  EXPECT_EQ(report.train_samples, 200);
  EXPECT_EQ(report.held_out_samples, 50);
  EXPECT_EQ(report.text_only_samples, 25 + 6);
  EXPECT_EQ(report.pictures, 250 - 31);
  std::set<size_t> lengths;
  std::map<std::string, int64_t> kinds;
  for (int64_t i = 0; i < train.size(); ++i) {
    const auto answers = answers_of(train.at(i));
    lengths.insert(answers.size());
    for (const auto& [kind, answer] : answers) ++kinds[kind];
    EXPECT_EQ(train.at(i).has("image"), !answers.contains("text"));
  }
  EXPECT_EQ(lengths, (std::set<size_t>{1, 2, 3}));
  EXPECT_EQ(kinds.size(), 4U);
  for (int64_t i = 0; i < held_out.size(); ++i) EXPECT_EQ(answers_of(held_out.at(i)).size(), 1U);
}

// Largest 4-connected areas of dark or coloured pixels (background is at least 225 in every channel).
int64_t count_areas(const Image& image) {
  std::vector<bool> ink(static_cast<size_t>(image.width * image.height));
  for (size_t i = 0; i < ink.size(); ++i) {
    ink[i] = *std::min_element(&image.rgb[3 * i], &image.rgb[3 * i] + 3) < 180;
  }
  int64_t areas = 0;
  std::vector<int64_t> open;
  for (int64_t start = 0; start < std::ssize(ink); ++start) {
    if (!ink[static_cast<size_t>(start)]) continue;
    ++areas;
    open.push_back(start);
    ink[static_cast<size_t>(start)] = false;
    while (!open.empty()) {
      const int64_t at = open.back();
      open.pop_back();
      const int64_t x = at % image.width;
      for (const int64_t next :
           {x > 0 ? at - 1 : -1, x + 1 < image.width ? at + 1 : -1, at - image.width, at + image.width}) {
        if (next < 0 || next >= std::ssize(ink) || !ink[static_cast<size_t>(next)]) continue;
        ink[static_cast<size_t>(next)] = false;
        open.push_back(next);
      }
    }
  }
  return areas;
}

TEST(Synthetic, PicturesShowWhatTheAnswersSay) {
  const testing::TempDir dir;
  const SyntheticOptions options{dir.file("set"), 300, 64, 2};
  make_synthetic_dataset(options);
  const Json train = Json::read_file(options.out + "/train.json");
  std::set<std::string> pairs;
  int64_t counted = 0;
  for (int64_t i = 0; i < train.size(); ++i) {
    auto answers = answers_of(train.at(i));
    if (answers.contains("text")) continue;
    const std::string path = options.out + "/images/" + train.at(i).at("image").as_string();
    const std::string bytes = read_file(path);
    const Image image = decode_image({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, path);
    EXPECT_EQ(image.width, 64);
    if (answers.contains("count")) {
      EXPECT_EQ(std::to_string(count_areas(image)), answers["count"]) << path;
      ++counted;
    }
    if (answers.contains("color") && answers.contains("shape")) pairs.insert(answers["color"] + " " + answers["shape"]);
  }
  EXPECT_GT(counted, 100);
  EXPECT_GT(pairs.size(), 30U);
  EXPECT_LE(pairs.size(), 42U);  // 6 x 8 less the held-out six
}

TEST(Synthetic, HeldOutSumsAreNotInTraining) {
  const testing::TempDir dir;
  const SyntheticOptions options{dir.file("set"), 800, 16, 0};
  make_synthetic_dataset(options);
  std::map<std::string, std::set<std::string>> sums;
  for (const std::string file : {"train", "heldout"}) {
    const Json samples = Json::read_file(options.out + "/" + file + ".json");
    for (int64_t i = 7; i < samples.size(); i += 8) {
      sums[file].insert(samples.at(i).at("conversations").at(0).at("value").as_string());
    }
  }
  EXPECT_GT(sums["train"].size(), 50U);
  for (const std::string& sum : sums["heldout"]) EXPECT_FALSE(sums["train"].contains(sum)) << sum;
}

TEST(Synthetic, Messages) {
  const testing::TempDir dir;
  EXPECT_EQ(message_of({dir.file("x"), 0, 64, 0}), "synthetic: 0 samples; expected 1 to 10000000");
  EXPECT_EQ(message_of({dir.file("x"), 8, 15, 0}), "synthetic: image size 15; expected 16 to 1024");
  EXPECT_EQ(message_of({"", 8, 16, 0}), "no folder given for the data set; expected --out DIR");
}

}  // namespace
}  // namespace matvlm
