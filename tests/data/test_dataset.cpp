// The packed data set as it is opened: packs written by hand with one thing changed, several of them, texts.
#include <gtest/gtest.h>

#include <functional>

#include "data/batch.h"
#include "data/dataset.h"
#include "data/hdf5_file.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

using testing::error_of;
using testing::expect_message;

// A pack of two samples written by hand, with one thing changed.
struct RawPack {
  std::string format = kPackFormat;
  int64_t version = kPackVersion;
  std::vector<int32_t> tokens = {1, kImageToken, 2, 3, 4};
  std::vector<int32_t> labels = {kIgnoreLabel, kIgnoreLabel, 2, kIgnoreLabel, 4};
  std::vector<int64_t> token_offsets = {0, 3, 5};
  std::vector<int64_t> turn_offsets = {0, 1, 2};
  std::vector<int64_t> image_of_sample = {0, -1};
  std::vector<int64_t> image_offsets = {0, 2};
  std::vector<int64_t> text_offsets = {0, 1, 2};
  std::vector<int64_t> sequence_offsets;  // of texts; version 2
  std::string definition;
  std::string left_out;

  void write(const std::string& path) const {
    Hdf5File file = Hdf5File::create(path);
    const auto put = [&](const std::string& name, const auto& values) {
      if (name != left_out) file.append(name, values);
    };
    put("tokens", tokens);
    put("labels", labels);
    put("token_offsets", token_offsets);
    put("turn_offsets", turn_offsets);
    put("image_of_sample", image_of_sample);
    if (!sequence_offsets.empty()) put("sequence_offsets", sequence_offsets);
    if (!definition.empty()) file.write_attribute("template_definition", definition);
    put("images/bytes", std::vector<uint8_t>{7, 8});
    put("images/offsets", image_offsets);
    put("image_names/bytes", std::vector<uint8_t>{'x'});
    put("image_names/offsets", std::vector<int64_t>{0, 1});
    for (const std::string name : {"sample_ids", "questions", "answers", "categories"}) {
      put(name + "/bytes", std::vector<uint8_t>{'x', 'y'});
      put(name + "/offsets", text_offsets);
    }
    for (const std::string name : {"template", "tokenizer_sha256"}) {
      if (name != left_out) file.write_attribute(name, std::string("phi"));
    }
    for (const std::string name : {"vocab_size", "tokens_per_image", "max_length"}) {
      if (name != left_out) file.write_attribute(name, int64_t{5});
    }
    file.write_attribute("format", format);
    file.write_attribute("format_version", version);
    file.write_attribute("skipped", std::string("{}"));
    file.commit();
  }
};

void expect_broken(const std::function<void(RawPack&)>& change, const std::string& part) {
  testing::TempDir dir;
  const std::string path = dir.file("x.h5");
  RawPack pack;
  change(pack);
  pack.write(path);
  expect_message(error_of([&] { Dataset{path}; }), path + ": ", part);
}

TEST(Dataset, TheUnchangedHandWrittenPackIsFine) {
  testing::TempDir dir;
  RawPack().write(dir.file("x.h5"));
  EXPECT_EQ(Dataset(dir.file("x.h5")).sample(1).labels, (std::vector<int32_t>{kIgnoreLabel, 4}));
}

TEST(Dataset, SeveralPacksAreOneDataSet) {
  testing::TempDir dir;
  const std::string a = dir.file("a.h5");
  const std::string b = dir.file("b.h5");
  RawPack().write(a);
  RawPack second;
  second.tokens = {1, 2, 2, kImageToken, 4};
  second.labels = {kIgnoreLabel, 2, 2, kIgnoreLabel, 4};
  second.image_of_sample = {-1, 0};
  second.write(b);
  for (const auto& paths : {std::vector<std::string>{a, b}, std::vector<std::string>{dir.file("*.h5")}}) {
    const Dataset both(paths);
    EXPECT_EQ(both.path(), a + " and 1 more");
    EXPECT_EQ(both.size(), 4);
    EXPECT_EQ(both.n_images(), 2);
    EXPECT_EQ(both.n_tokens(), 10);
    const std::vector<int64_t> images = {0, -1, -1, 1};
    for (int64_t i = 0; i < 4; ++i) {
      const PackFile one(i < 2 ? a : b);
      const PackedSample sample = both.sample(i);
      EXPECT_EQ(sample.input_ids, one.sample(i % 2).input_ids);
      EXPECT_EQ(sample.labels, one.sample(i % 2).labels);
      EXPECT_EQ(sample.image, images[static_cast<size_t>(i)]);
      EXPECT_EQ(both.image_of_sample(i), images[static_cast<size_t>(i)]);
      EXPECT_EQ(both.length(i), one.length(i % 2));
      EXPECT_EQ(both.sample_id(i), one.sample_id(i % 2));
      EXPECT_EQ(both.n_turns(i), 1);
      EXPECT_EQ(both.turns(i).at(0).question, one.turns(i % 2).at(0).question);
    }
    EXPECT_EQ(both.image_bytes(1), (std::vector<uint8_t>{7, 8}));
    EXPECT_EQ(both.image_name(1), "x");
    expect_message(error_of([&] { both.sample(4); }), a + " and 1 more: ", "found sample index 4, expected 0..3");
    expect_message(error_of([&] { both.image_bytes(-1); }),
                   a + " and 1 more: ", "found picture index -1, expected 0..1");
  }
  EXPECT_EQ(error_of([&] { Dataset({a, dir.file("*.h5")}); }), a + ": found the pack named twice, expected once");
  EXPECT_EQ(error_of([&] { Dataset(dir.file("c*.h5")); }),
            dir.file("c*.h5") + ": found no file that matches, expected at least one pack");
}

TEST(Dataset, PacksThatDoNotGoTogetherAreRefused) {
  testing::TempDir dir;
  RawPack().write(dir.file("a.h5"));
  RawPack texts;
  texts.version = kTextPackVersion;
  texts.tokens = {1, 0, 2, 3, 4};
  texts.labels = texts.tokens;
  texts.image_of_sample = {-1, -1};
  texts.sequence_offsets = {0, 3, 5};
  texts.write(dir.file("b.h5"));
  EXPECT_EQ(error_of([&] {
              Dataset({dir.file("a.h5"), dir.file("b.h5")});
            }),
            dir.file("b.h5") + ": attribute 'format_version': found 2, expected 1, as in " + dir.file("a.h5"));
}

TEST(Dataset, BrokenPacksAreNamed) {
  expect_broken([](RawPack& p) { p.format = "other"; }, "'format': found 'other'");
  expect_broken([](RawPack& p) { p.version = 3; }, "'format_version': found 3, expected 1 or 2");
  for (const char* name : {"tokens", "labels", "token_offsets", "turn_offsets", "image_of_sample", "images/bytes",
                           "images/offsets", "image_names/offsets", "sample_ids/bytes", "questions/offsets",
                           "answers/bytes", "categories/offsets", "template", "vocab_size", "max_length"}) {
    expect_broken([&](RawPack& p) { p.left_out = name; }, name);
  }
  expect_broken([](RawPack& p) { p.token_offsets = {0, 6, 5}; }, "'token_offsets': found 5 after 6");
  expect_broken([](RawPack& p) { p.token_offsets = {1, 3, 5}; }, "'token_offsets': found 1 first");
  expect_broken([](RawPack& p) { p.token_offsets = {0, 3, 9}; }, "'token_offsets': found 9 last, expected 5");
  expect_broken([](RawPack& p) { p.token_offsets = {0, 5}; }, "'token_offsets': found 2 elements, expected 3");
  expect_broken([](RawPack& p) { p.token_offsets = {0, 0, 5}; }, "sample 0: found 0 ids");
  expect_broken([](RawPack& p) { p.token_offsets = {}; }, "token_offsets");
  expect_broken([](RawPack& p) { p.turn_offsets = {0, 1, 3}; }, "'turn_offsets': found 3 last, expected 2");
  expect_broken([](RawPack& p) { p.image_offsets = {0, 3}; }, "'images/offsets': found 3 last, expected 2");
  expect_broken([](RawPack& p) { p.text_offsets = {0, 2}; }, "found");
  expect_broken([](RawPack& p) { p.labels.pop_back(); }, "'labels': found 4 elements, expected 5");
  expect_broken([](RawPack& p) { p.tokens[4] = 5; }, "sample 1: found id 5 outside the vocabulary, expected 0..4");
  expect_broken([](RawPack& p) { p.tokens[4] = -1; }, "sample 1: found id -1");
  expect_broken([](RawPack& p) { p.labels[2] = 3; }, "sample 0: found label 3 at position 2");
  expect_broken([](RawPack& p) { p.labels[1] = kImageToken; }, "sample 0: found label -200");
  expect_broken([](RawPack& p) { p.tokens[1] = 1; }, "sample 0: found 0 image marks, expected 1");
  expect_broken([](RawPack& p) { p.image_of_sample = {0, 0}; }, "sample 1: found 0 image marks, expected 1");
  expect_broken([](RawPack& p) { p.image_of_sample = {-1, -1}; }, "sample 0: found 1 image marks, expected 0");
  expect_broken([](RawPack& p) { p.image_of_sample = {1, -1}; }, "sample 0: found picture 1, expected -1..0");
  expect_broken([](RawPack& p) { p.image_of_sample = {}; }, "found no samples");
  expect_broken([](RawPack& p) { p.definition = "{"; }, "'template_definition'");
  expect_broken([](RawPack& p) { p.definition = "{}"; }, "'template_definition': key 'name': found ''");
}

TEST(Dataset, BrokenTextPacksAreNamed) {
  const auto expect = [](std::vector<int64_t> offsets, const std::string& part) {
    expect_broken(
        [&](RawPack& p) {
          p.version = 2;
          p.sequence_offsets = std::move(offsets);
        },
        part);
  };
  expect({}, "sequence_offsets");
  expect({0, 2, 5}, "'sequence_offsets': found a text that reaches over the end of a row");
  expect({0, 3, 3, 5}, "'sequence_offsets': found a text without tokens");
  expect({0, 3, 4}, "'sequence_offsets': found 4 last, expected 5");
  expect({0, 3, 2, 5}, "'sequence_offsets': found 2 after 3");
}

TEST(Dataset, APackWithPicturesIsNotForATextModel) {
  testing::TempDir dir;
  RawPack().write(dir.file("x.h5"));
  PackExpectation expected;
  expected.text_only = true;
  EXPECT_EQ(error_of([&] { Dataset(dir.file("x.h5"), expected); }),
            dir.file("x.h5") + ": found 1 pictures, expected none: the model has no vision tower");
}

}  // namespace
}  // namespace matvlm
