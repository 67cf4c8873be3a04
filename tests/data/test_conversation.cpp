// The phi template: rendered text, ids around the image mark, which tokens are labels, and the cuts.
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/json.h"
#include "data/batch.h"
#include "data/bpe_trainer.h"
#include "data/conversation.h"

namespace matvlm {
namespace {

const std::string kSystem =
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions.";

const Tokenizer& tokenizer() {
  static const Tokenizer trained = [] {
    BpeTrainerOptions options;
    options.vocab_size = 400;
    options.min_count = 1;
    return train_bpe({kSystem, "USER: What is it? ASSISTANT: a red ball", "Is it a cat? no, a dog"}, options);
  }();
  return trained;
}

const ConversationTemplate& phi() { return find_template("phi"); }

std::vector<int32_t> join(std::initializer_list<std::vector<int32_t>> parts) {
  std::vector<int32_t> out;
  for (const auto& part : parts) out.insert(out.end(), part.begin(), part.end());
  return out;
}

// Text of ids with the image token as "[I]".
std::string text_of(const std::vector<int32_t>& ids) {
  std::string out;
  for (const int32_t id : ids) {
    out += id == kImageToken ? "[I]" : tokenizer().decode(std::vector<int32_t>{id}, false);
  }
  return out;
}

std::string label_text(const EncodedConversation& conversation) {
  std::string out;
  for (const int32_t label : conversation.labels) {
    out += label == kIgnoreLabel ? "." : tokenizer().decode(std::vector<int32_t>{label}, false);
  }
  while (out.find("..") != std::string::npos) out.erase(out.find(".."), 1);
  return out;
}

TEST(Conversation, TextOfOneTurnWithAnImage) {
  for (const std::string question :
       {"<image>\nWhat is it?", "What is it?\n<image>", "What is <image>it?", "  What is it? <image> "}) {
    const EncodedConversation out = encode_conversation({{question, "a red ball", ""}}, phi(), tokenizer());
    EXPECT_TRUE(out.consistent);
    EXPECT_EQ(text_of(out.input_ids), kSystem + " USER: [I]\nWhat is it? ASSISTANT: a red ball<|endoftext|>");
    EXPECT_EQ(label_text(out), ". a red ball<|endoftext|>");
    ASSERT_EQ(out.labels.size(), out.input_ids.size());
    // Piece by piece: each side of the mark is tokenised on its own.
    EXPECT_EQ(out.input_ids, join({tokenizer().encode(kSystem + " USER: "),
                                   {kImageToken},
                                   tokenizer().encode("\nWhat is it? ASSISTANT: a red ball<|endoftext|>")}));
  }
  const EncodedConversation bare = encode_conversation({{"<image>", "a ball", ""}}, phi(), tokenizer());
  EXPECT_EQ(text_of(bare.input_ids), kSystem + " USER: [I] ASSISTANT: a ball<|endoftext|>");
}

TEST(Conversation, SeveralTurnsAndTextOnly) {
  const std::vector<Turn> turns = {{" What is it?", "a red ball", ""}, {"Is it a cat?", "no", ""}};
  const EncodedConversation out = encode_conversation(turns, phi(), tokenizer());
  EXPECT_TRUE(out.consistent);
  EXPECT_EQ(text_of(out.input_ids),
            kSystem +
                " USER:  What is it? ASSISTANT: a red ball<|endoftext|>USER: Is it a cat? ASSISTANT: no"
                "<|endoftext|>");
  EXPECT_EQ(label_text(out), ". a red ball<|endoftext|>. no<|endoftext|>");
  for (size_t i = 0; i < out.labels.size(); ++i) {
    EXPECT_TRUE(out.labels[i] == kIgnoreLabel || out.labels[i] == out.input_ids[i]);
  }
}

TEST(Conversation, ImageInALaterTurn) {
  const EncodedConversation out =
      encode_conversation({{"What is it?", "no", ""}, {"a cat? <image>", "no", ""}}, phi(), tokenizer());
  EXPECT_TRUE(out.consistent);
  EXPECT_EQ(text_of(out.input_ids), kSystem +
                                        " USER: What is it? ASSISTANT: no<|endoftext|>USER: [I]\na cat? "
                                        "ASSISTANT: no<|endoftext|>");
}

TEST(Conversation, TheSpaceBeforeAnAnswerBelongsToItsFirstToken) {
  // Answers that begin with a space of their own: the published code counts the instruction without its last space.
  const EncodedConversation out = encode_conversation({{"What?", "  a ball", ""}}, phi(), tokenizer());
  EXPECT_TRUE(out.consistent);
  EXPECT_EQ(label_text(out), ".   a ball<|endoftext|>");
}

TEST(Conversation, TextsWithTheTemplatesOwnMarksAreNotLearntFrom) {
  for (const Turn& turn : {Turn{"What? ASSISTANT: a", "ball", ""}, Turn{"What?", "a <|endoftext|> ball", ""},
                           Turn{"<|endoftext|>", "ball", ""}, Turn{"What?", "a ASSISTANT: ball", ""}}) {
    const EncodedConversation out = encode_conversation({turn}, phi(), tokenizer());
    EXPECT_FALSE(out.consistent) << turn.question;
    EXPECT_EQ(label_text(out), ".");
    EXPECT_EQ(out.labels.size(), out.input_ids.size());
  }
}

TEST(Conversation, AnEmptyAnswerIsItsSpaceAndTheEndToken) {
  const EncodedConversation out = encode_conversation({{"What?", "", ""}, {"And?", "no", ""}}, phi(), tokenizer());
  EXPECT_TRUE(out.consistent);
  EXPECT_EQ(label_text(out), ". <|endoftext|>. no<|endoftext|>");
}

// The published trainer compares its pieces only where they are shorter than the cut.
TEST(Conversation, TurnsBehindTheCutMayNotAddUp) {
  const std::vector<Turn> turns = {{"What is it?", "a red ball", ""}, {"And?", "a <|endoftext|> cat", ""}};
  const auto first = std::ssize(encode_conversation({turns[0]}, phi(), tokenizer()).input_ids);
  for (const int64_t max_length : {first - 3, static_cast<int64_t>(first)}) {
    EncodedConversation out = encode_conversation(turns, phi(), tokenizer(), max_length);
    EXPECT_TRUE(out.consistent);
    EXPECT_EQ(out.input_ids.size(), out.labels.size());
    EXPECT_EQ(label_text(out), ". a red ball<|endoftext|>.");
    cut_conversation(out, max_length);
    EXPECT_EQ(std::ssize(out.input_ids), max_length);
  }
  EXPECT_FALSE(encode_conversation(turns, phi(), tokenizer(), first + 1).consistent);
}

TEST(Conversation, PromptIsTheBeginningOfTheTrainingText) {
  const std::vector<Turn> turns = {{"<image>\nWhat is it?", "a red ball", ""}, {"Is it a cat?", "no", ""}};
  const EncodedConversation whole = encode_conversation(turns, phi(), tokenizer());
  for (size_t n = 1; n <= 2; ++n) {
    std::vector<Turn> part(turns.begin(), turns.begin() + static_cast<int64_t>(n));
    part.back().answer = "not looked at";
    const std::vector<int32_t> prompt = encode_prompt(part, phi(), tokenizer());
    ASSERT_LT(prompt.size(), whole.input_ids.size());
    EXPECT_TRUE(std::equal(prompt.begin(), prompt.end(), whole.input_ids.begin()));
    EXPECT_TRUE(text_of(prompt).ends_with("? ASSISTANT:"));
    EXPECT_NE(whole.labels[prompt.size()], kIgnoreLabel);
    EXPECT_EQ(whole.labels[prompt.size() - 1], kIgnoreLabel);
  }
  EXPECT_EQ(with_image_mark("What?"), "<image>\nWhat?");
  EXPECT_EQ(with_image_mark("What <image>?"), "What <image>?");
  EXPECT_EQ(without_image_mark(" What?\n<image> "), "What?");
}

TEST(Conversation, CutsOfIdsAndOfTheSplicedRow) {
  EncodedConversation row;
  row.input_ids = {5, kImageToken, 6, 7, 8, 9};
  row.labels = {kIgnoreLabel, kIgnoreLabel, kIgnoreLabel, 7, 8, 9};
  EXPECT_EQ(count_labels_after_splice(row, 4, 100), 3);
  EXPECT_EQ(count_labels_after_splice(row, 4, 9), 3);  // the row has 9 positions
  EXPECT_EQ(count_labels_after_splice(row, 4, 7), 1);
  EXPECT_EQ(count_labels_after_splice(row, 4, 6), 0);
  cut_conversation(row, 5);
  EXPECT_EQ(row.input_ids.size(), 5U);
  EXPECT_EQ(row.labels.size(), 5U);
  EXPECT_EQ(count_labels_after_splice(row, 4, 100), 2);
  EncodedConversation first;
  first.input_ids = {5, 6};
  first.labels = {5, 6};
  EXPECT_EQ(count_labels_after_splice(first, 4, 100), 1);  // nothing predicts the first position
  EXPECT_THROW(cut_conversation(row, 0), Error);
}

// Ids and labels of random conversations with every edge of the format, as the published template code and the cut of
// its collator give them (tests/golden/conversation).
TEST(Conversation, IdsAndLabelsAreThoseOfThePublishedCode) {
  const std::string golden = std::string(MATVLM_SOURCE_DIR) + "/tests/golden/";
  const Tokenizer codegen = Tokenizer::read_file(golden + "tokenizer/codegen.json");
  const Json cases = Json::read_file(golden + "conversation/conversations.json");
  ASSERT_EQ(cases.size(), 160);
  for (int64_t i = 0; i < cases.size(); ++i) {
    const Json one = cases.at(i);
    std::vector<Turn> turns;
    for (int64_t t = 0; t < one.at("turns").size(); ++t) {
      const Json turn = one.at("turns").at(t);
      turns.push_back({turn.at(int64_t{0}).as_string(), turn.at(int64_t{1}).as_string(), ""});
    }
    const int64_t max_length = one.at("max_length").as_int();
    EncodedConversation out = encode_conversation(turns, phi(), codegen, max_length);
    cut_conversation(out, max_length);
    const Json ids = one.at("ids");
    ASSERT_EQ(std::ssize(out.input_ids), ids.size()) << i;
    std::vector<int32_t> labels(out.input_ids.size(), kIgnoreLabel);
    for (int64_t k = 0; k < ids.size(); ++k) ASSERT_EQ(out.input_ids[static_cast<size_t>(k)], ids.at(k).as_int()) << i;
    for (int64_t run = 0; run < one.at("learnt").size(); ++run) {
      const Json range = one.at("learnt").at(run);
      for (int64_t k = range.at(int64_t{0}).as_int(); k < range.at(int64_t{1}).as_int(); ++k) {
        labels[static_cast<size_t>(k)] = out.input_ids[static_cast<size_t>(k)];
      }
    }
    EXPECT_EQ(out.labels, labels) << i << ": " << one.at("turns").dump();
  }
}

TEST(Conversation, UnknownTemplateAndMissingEndTokenAreErrors) {
  try {
    find_template("vicuna");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "template: found 'vicuna', expected 'phi', 'llama' or 'chatml'");
  }
  BpeTrainerOptions options;
  options.vocab_size = 257;
  options.special_tokens = {"<end>"};
  EXPECT_THROW(encode_conversation({{"a", "b", ""}}, phi(), train_bpe({}, options)), Error);
  EXPECT_THROW(encode_conversation({}, phi(), tokenizer()), Error);
}

}  // namespace
}  // namespace matvlm
