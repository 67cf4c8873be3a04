// Batches and questions out of a pack: order, contents, ranks, threads, errors at their place, and shutdown.
#include <gtest/gtest.h>

#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "data/bpe_trainer.h"
#include "data/eval_set.h"
#include "data/loader.h"
#include "data/pack.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

constexpr int64_t kSamples = 23;

// A pack of kSamples samples; every third is text-only, the picture of sample i is grey of value 10 * i.
class LoaderTest : public ::testing::Test {
 protected:
  LoaderTest() : tokenizer_(train_bpe({"What is it? number ball"}, BpeTrainerOptions{300, {"<|endoftext|>"}, 1})) {
    std::filesystem::create_directories(dir_.file("images"));
    std::string text;
    for (int64_t i = 0; i < kSamples; ++i) {
      const std::string name = std::to_string(i) + ".png";
      const Image image{3, 2, std::vector<uint8_t>(18, static_cast<uint8_t>(10 * i))};
      const std::vector<uint8_t> png = encode_png(image);
      write_file_atomic(dir_.file("images/" + name), std::string(png.begin(), png.end()));
      const bool has_image = i % 3 != 0;
      text += cat(i == 0 ? "[" : ",", R"({"id": ")", i, R"(", )", has_image ? R"("image": ")" + name + R"(", )" : "",
                  R"("categories": ["name", "number"], "conversations": [{"from": "human", "value": "What)",
                  has_image ? " <image>" : "", R"(?"}, {"from": "gpt", "value": "ball"}, {"from": "human",
                  "value": "number?"}, {"from": "gpt", "value": ")",
                  i, R"("}]})");
    }
    write_file_atomic(dir_.file("data.json"), text + "]");
    PackOptions options;
    options.json_path = dir_.file("data.json");
    options.image_folder = dir_.file("images");
    options.output = dir_.file("data.h5");
    pack_dataset(options, tokenizer_);
    data_ = std::make_unique<Dataset>(options.output);
  }

  LoaderOptions options_of(int64_t batch, int64_t micro, int64_t rank = 0, int64_t ranks = 1) const {
    LoaderOptions options;
    options.division = {batch, micro, ranks};
    options.rank = rank;
    options.seed = 3;
    options.preprocess.size = 4;
    return options;
  }

  testing::TempDir dir_;
  Tokenizer tokenizer_;
  std::unique_ptr<Dataset> data_;
};

TEST_F(LoaderTest, BatchHoldsRowsAndPictures) {
  ImagePreprocess preprocess;
  preprocess.size = 4;
  const Batch batch = make_batch(*data_, {4, 3, 2}, preprocess);
  EXPECT_EQ(batch.rows(), 3);
  EXPECT_EQ(batch.n_images(), 2);
  EXPECT_EQ(batch.image_of_row, (std::vector<int64_t>{0, -1, 1}));
  EXPECT_EQ(batch.cu_seqlens.back(), static_cast<int64_t>(batch.input_ids.size()));
  EXPECT_EQ(batch.labels.size(), batch.input_ids.size());
  const PackedSample second = data_->sample(3);
  const std::vector<int32_t> row(batch.input_ids.begin() + batch.cu_seqlens[1],
                                 batch.input_ids.begin() + batch.cu_seqlens[2]);
  EXPECT_EQ(row, second.input_ids);
  EXPECT_FLOAT_EQ(batch.images[0], (40.0F / 255.0F - 0.5F) / 0.5F);
  EXPECT_FLOAT_EQ(batch.images[48], (20.0F / 255.0F - 0.5F) / 0.5F);
  const Batch empty = make_batch(*data_, {}, preprocess);
  EXPECT_EQ(empty.rows(), 0);
  EXPECT_EQ(empty.cu_seqlens, std::vector<int64_t>{0});
}

TEST_F(LoaderTest, OrderIsTheSamplersForAnyThreadsAndAnyStart) {
  const SampleOrder order(kSamples, 3, true);
  for (const int64_t threads : {1, 4}) {
    for (const int64_t start : {0, 21, 1000}) {
      LoaderOptions options = options_of(5, 2);
      options.threads = threads;
      options.start = start;
      Loader loader(*data_, options);
      for (int64_t step = 0; step < 8; ++step) {
        for (int64_t micro = 0; micro < 3; ++micro) {
          const LoadedBatch loaded = loader.next();
          EXPECT_EQ(loaded.position, start + step * 5);
          EXPECT_EQ(loaded.micro_step, micro);
          EXPECT_EQ(loaded.last, micro == 2);
          std::vector<int64_t> expected;
          for (int64_t row = 2 * micro; row < std::min<int64_t>(5, 2 * micro + 2); ++row) {
            expected.push_back(order.sample_at(start + step * 5 + row));
          }
          EXPECT_EQ(loaded.batch.samples, expected);
        }
      }
    }
  }
}

TEST_F(LoaderTest, RanksTogetherHaveTheSameRowsInTheSameOrder) {
  for (const int64_t ranks : {1, 2, 3, 7}) {
    std::vector<std::unique_ptr<Loader>> loaders;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      loaders.push_back(std::make_unique<Loader>(*data_, options_of(5, 1, rank, ranks)));
    }
    const SampleOrder order(kSamples, 3, true);
    for (int64_t step = 0; step < 6; ++step) {
      std::vector<int64_t> samples;
      for (const auto& loader : loaders) {
        bool last = false;
        while (!last) {
          const LoadedBatch loaded = loader->next();
          samples.insert(samples.end(), loaded.batch.samples.begin(), loaded.batch.samples.end());
          last = loaded.last;
        }
      }
      ASSERT_EQ(samples.size(), 5U);
      for (int64_t i = 0; i < 5; ++i) EXPECT_EQ(samples[static_cast<size_t>(i)], order.sample_at(step * 5 + i));
    }
  }
}

TEST_F(LoaderTest, EndsWhileWorkersAreBusyOrWaiting) {
  for (int i = 0; i < 20; ++i) {
    LoaderOptions options = options_of(4, 1);
    options.threads = 3;
    options.depth = 2;
    Loader loader(*data_, options);
    if (i % 2 == 0) loader.next();
  }
  LoaderOptions options = options_of(4, 1);
  Loader loader(*data_, options);
  loader.next();
  EXPECT_GT(loader.take_wait_seconds(), 0.0);
  EXPECT_EQ(loader.take_wait_seconds(), 0.0);
}

TEST_F(LoaderTest, ABrokenPictureIsThrownAtItsPlace) {
  // Sample 4's picture replaced in the folder by one that is cut, packed without looking at pictures.
  write_file_atomic(dir_.file("images/4.png"), read_file(dir_.file("images/4.png")).substr(0, 30));
  PackOptions pack;
  pack.json_path = dir_.file("data.json");
  pack.image_folder = dir_.file("images");
  pack.output = dir_.file("broken.h5");
  pack.verify_images = false;
  pack_dataset(pack, tokenizer_);
  const Dataset broken(pack.output);
  for (const int64_t threads : {1, 3}) {
    LoaderOptions options = options_of(1, 1);
    options.shuffle = false;
    options.threads = threads;
    Loader loader(broken, options);
    for (int64_t i = 0; i < 4; ++i) EXPECT_EQ(loader.next().batch.samples.front(), i);
    for (int repeat = 0; repeat < 2; ++repeat) {
      try {
        loader.next();
        FAIL();
      } catch (const Error& error) {
        const std::string message = error.what();
        EXPECT_TRUE(message.starts_with(pack.output + ": picture '4.png'")) << message;
        EXPECT_EQ(message.find('\n'), std::string::npos);
      }
    }
  }
}

TEST_F(LoaderTest, OptionsOutOfRange) {
  EXPECT_THROW(Loader(*data_, options_of(0, 1)), Error);
  EXPECT_THROW(Loader(*data_, options_of(1, 1, 2, 2)), Error);
  LoaderOptions options = options_of(1, 1);
  options.threads = 0;
  EXPECT_THROW(Loader(*data_, options), Error);
  options.threads = 1;
  options.depth = 0;
  EXPECT_THROW(Loader(*data_, options), Error);
  options.depth = 1;
  options.start = -1;
  EXPECT_THROW(Loader(*data_, options), Error);
}

TEST_F(LoaderTest, QuestionsForEvaluation) {
  const EvalSet with_history(*data_, tokenizer_, EvalHistory::previous);
  const EvalSet alone(*data_, tokenizer_, EvalHistory::none);
  ASSERT_EQ(with_history.size(), 2 * kSamples);
  const EvalQuestion second = with_history.question(3);  // sample 1, turn 1
  EXPECT_EQ(second.sample, 1);
  EXPECT_EQ(second.turn, 1);
  EXPECT_EQ(second.sample_id, "1");
  EXPECT_EQ(second.answer, "1");
  EXPECT_EQ(second.category, "number");
  EXPECT_EQ(second.image, data_->image_of_sample(1));
  const PackedSample packed = data_->sample(1);
  ASSERT_LT(second.prompt_ids.size(), packed.input_ids.size());
  EXPECT_TRUE(std::equal(second.prompt_ids.begin(), second.prompt_ids.end(), packed.input_ids.begin()));
  EXPECT_EQ(alone.question(3).prompt_ids,
            encode_prompt({{"<image>\nnumber?", "", ""}}, find_template("phi"), tokenizer_));
  EXPECT_EQ(alone.question(3).question, "number?");
  EXPECT_EQ(alone.question(1).prompt_ids, encode_prompt({{"number?", "", ""}}, find_template("phi"), tokenizer_));
  EXPECT_EQ(alone.question(1).image, -1);
  EXPECT_THROW(alone.question(2 * kSamples), Error);
  EXPECT_TRUE(exact_match(" ball\n", "ball"));
  EXPECT_FALSE(exact_match("Ball", "ball"));
  const Tokenizer other = train_bpe({"x"}, BpeTrainerOptions{});
  EXPECT_THROW(EvalSet(*data_, other, EvalHistory::none), Error);
}

}  // namespace
}  // namespace matvlm
