// The trainer of the demo's tokenizer: what it merges, in which order, and that its files can be read again.
#include <gtest/gtest.h>

#include "core/error.h"
#include "data/bpe_trainer.h"
#include "data/sha256.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

BpeTrainerOptions options_of(int64_t vocab_size, int64_t min_count = 1) {
  BpeTrainerOptions options;
  options.vocab_size = vocab_size;
  options.min_count = min_count;
  return options;
}

TEST(BpeTrainer, MergesTheMostFrequentPairAndBreaksTiesAlphabetically) {
  // Words: "ab" x3, "cd" x3, "abe" x1. Pairs: a+b 4, c+d 3, b+e 1; then ab+e 1.
  const Tokenizer tokenizer = train_bpe({"ab", "cd", "ab", "cd", "ab", "cd", "abe"}, options_of(260));
  EXPECT_EQ(tokenizer.vocab_size(), 260);
  EXPECT_EQ(tokenizer.token_bytes(257), "ab");
  EXPECT_EQ(tokenizer.token_bytes(258), "cd");
  EXPECT_EQ(tokenizer.token_bytes(259), "abe");
  const Tokenizer tie = train_bpe({"zy", "xw", "xa"}, options_of(259));
  EXPECT_EQ(tie.token_bytes(257), "xa");
  EXPECT_EQ(tie.token_bytes(258), "xw");
}

TEST(BpeTrainer, RepeatedSymbolsAreCountedAsTheyMerge) {
  // "aaaa": a+a 3, merged to aa aa; then aa+aa.
  const Tokenizer tokenizer = train_bpe({"aaaa"}, options_of(300));
  EXPECT_EQ(tokenizer.vocab_size(), 259);
  EXPECT_EQ(tokenizer.encode("aaaa"), std::vector<int32_t>{258});
  EXPECT_EQ(tokenizer.encode("aaaaa"), (std::vector<int32_t>{258, *tokenizer.token_to_id("a")}));
}

TEST(BpeTrainer, SpecialTokensComeFirstAndAreNotLearntFrom) {
  BpeTrainerOptions options = options_of(1000);
  options.special_tokens = {"<|endoftext|>", "<x>"};
  const Tokenizer tokenizer = train_bpe({"ab<|endoftext|>ab<x>"}, options);
  EXPECT_EQ(tokenizer.vocab_size(), 259);
  EXPECT_EQ(tokenizer.encode("<x>ab<|endoftext|>"), (std::vector<int32_t>{1, 258, 0}));
}

TEST(BpeTrainer, SmallestPairCountAndTooSmallVocabulary) {
  EXPECT_EQ(train_bpe({"ab"}, options_of(1000, 2)).vocab_size(), 257);
  try {
    train_bpe({"ab"}, options_of(256));
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "tokenizer: found vocab_size 256, expected at least 257 (256 bytes and the special tokens)");
  }
}

TEST(BpeTrainer, TwentyThousandCaptionsAreTheSameEachTimeAndRoundTrip) {
  std::vector<std::string> texts;
  const std::vector<std::string> words = {"red", "smiling", "woman", "côte", "dark skin tone", "flag", "it's", "東京"};
  for (size_t i = 0; i < 20000; ++i) {
    texts.push_back("A " + words[i % 8] + " " + words[(i / 8) % 8] + " number " + std::to_string(i * 7919 % 10007));
  }
  const Tokenizer tokenizer = train_bpe(texts, options_of(2048));
  EXPECT_EQ(tokenizer.vocab_size(), 2048);
  EXPECT_EQ(tokenizer.sha256(), train_bpe(texts, options_of(2048)).sha256());
  testing::TempDir dir;
  tokenizer.save(dir.file("t.json"));
  const Tokenizer read = Tokenizer::read_file(dir.file("t.json"));
  for (size_t i = 0; i < texts.size(); i += 97) {
    const std::vector<int32_t> ids = read.encode(texts[i]);
    EXPECT_EQ(ids, tokenizer.encode(texts[i]));
    EXPECT_EQ(read.decode(ids, false), texts[i]);
    EXPECT_LT(ids.size(), texts[i].size() / 2);
  }
}

TEST(Sha256, StandardValues) {
  EXPECT_EQ(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256(std::string(1000000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

}  // namespace
}  // namespace matvlm
