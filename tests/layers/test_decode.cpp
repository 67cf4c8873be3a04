// Decoding against the full forward pass: prompts in one pass, tokens one by one and several at once, slots of
// different lengths in any order, roll-back, reset, and the limits.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "core/error.h"
#include "tests/support/errors.h"
#include "tests/support/op_check.h"
#include "tests/support/tiny_model.h"

namespace matvlm::testing {
namespace {

using Ids = std::vector<int32_t>;

// Attention over a cache and the recurrence of one token sum in another order than whole sequences; through four layers
// the difference was measured at up to 5.2e-7 of the norm.
constexpr double kTolerance = 5e-6;

Context& ctx() {
  static const std::unique_ptr<Context> context = make_cpu_context(2);
  return *context;
}

struct Piece {
  int64_t slot = 0;
  Ids ids;
};

SplicedRows rows_of(const std::vector<Piece>& pieces) {
  SplicedRows rows;
  rows.cu.push_back(0);
  for (const Piece& p : pieces) {
    rows.source.insert(rows.source.end(), p.ids.begin(), p.ids.end());
    rows.cu.push_back(static_cast<int64_t>(rows.source.size()));
  }
  return rows;
}

Ids random_ids(int64_t n, uint64_t stream) {
  const Rng rng{23, stream};
  Ids ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(rng.below(static_cast<uint64_t>(i), 61)));
  return ids;
}

// A hybrid model (Mamba, attention, Mamba, attention) that decodes, and the sequences its slots should hold.
class Decoder {
 public:
  explicit Decoder(Context& device, int64_t slots = 3, int64_t capacity = 40,
                   const StudentConfig& student = tiny_student(), int64_t kv_heads = 2, const KvPages& pages = {})
      : device_(device),
        models_(make_tiny_models(device, student, kv_heads)),
        state(device, models_->student_config, DType::f32, slots, capacity, pages) {}

  // Appends the pieces in one pass and compares their hidden states with a full pass over everything the slots hold.
  void feed(const std::vector<Piece>& pieces, bool keep = false) {
    const SplicedRows rows = rows_of(pieces);
    std::vector<int64_t> slots;
    for (const Piece& p : pieces) slots.push_back(p.slot);
    const Pass pass = make_decode_pass(device_, rows.cu, state, slots, keep);
    const std::vector<float> found = hidden(rows, pass);
    std::vector<float> expected;
    for (const Piece& p : pieces) {
      Ids& all = held[p.slot];
      all.insert(all.end(), p.ids.begin(), p.ids.end());
      const std::vector<float> whole = full({p.slot, all});
      const auto width = models_->student_config.text.hidden;
      expected.insert(expected.end(), whole.end() - static_cast<int64_t>(p.ids.size()) * width, whole.end());
      EXPECT_EQ(state.length(p.slot), static_cast<int64_t>(all.size()));
    }
    EXPECT_LE(relative_error(found, expected), kTolerance);
    outputs.insert(outputs.end(), found.begin(), found.end());
  }
  void rollback(int64_t slot, int64_t tokens) {
    state.rollback(device_, slot, tokens);
    held[slot].resize(held[slot].size() - static_cast<size_t>(tokens));
    EXPECT_EQ(state.length(slot), static_cast<int64_t>(held[slot].size()));
  }
  void reset(int64_t slot) {
    state.reset(device_, slot);
    held[slot].clear();
    EXPECT_EQ(state.length(slot), 0);
  }

 private:
  std::vector<float> hidden(const SplicedRows& rows, const Pass& pass) {
    Graph g(device_, false);
    const LanguageModel& text = models_->student.text;
    return run_text(g, text, run_embedding(g, text, Var(), rows), pass).value().to_floats(device_);
  }
  std::vector<float> full(const Piece& piece) {
    const SplicedRows rows = rows_of({piece});
    return hidden(rows, make_pass(device_, rows.cu));
  }
  Context& device_;
  std::unique_ptr<TinyModels> models_;

 public:
  DecodeState state;
  std::map<int64_t, Ids> held;
  std::vector<float> outputs;  // of all passes
};

void check_token_by_token(Context& device) {
  for (const int64_t kv_heads : {4, 2, 1}) {
    SCOPED_TRACE(kv_heads);
    Decoder d(device, 1, 40, tiny_student(), kv_heads);
    d.feed({{0, random_ids(7, 1)}});
    for (uint64_t i = 0; i < 12; ++i) d.feed({{0, random_ids(1, 100 + i)}});
  }
}
TEST(Decode, PromptThenTokenByToken) { check_token_by_token(ctx()); }

TEST(Decode, ModelsOfOneKindOfLayer) {
  StudentConfig all_mamba = tiny_student();
  all_mamba.ssm_layers = {0, 1, 2, 3};
  all_mamba.is_bias = true;
  all_mamba.conv_width = 3;
  StudentConfig none = tiny_student();
  none.ssm_layers = {};
  for (const StudentConfig& student : {all_mamba, none}) {
    Decoder d(ctx(), 2, 40, student);
    d.feed({{1, random_ids(2, 1)}, {0, random_ids(5, 2)}});
    for (uint64_t i = 0; i < 5; ++i) d.feed({{0, random_ids(1, 10 + i)}, {1, random_ids(1, 20 + i)}});
  }
}

// Prompts shorter than the convolution reach into the empty state; a first token alone is the shortest.
TEST(Decode, PromptsShorterThanTheConvolution) {
  for (int64_t length = 1; length <= 4; ++length) {
    Decoder d(ctx(), 1);
    d.feed({{0, random_ids(length, 1)}});
    for (uint64_t i = 0; i < 4; ++i) d.feed({{0, random_ids(1, 100 + i)}});
  }
}

void check_several_tokens(Context& device) {
  Decoder d(device, 1);
  uint64_t stream = 1;
  for (const int64_t n : {1, 3, 2, 9, 1, 4, 17}) d.feed({{0, random_ids(n, stream++)}});
}
TEST(Decode, SeveralTokensAtOnce) { check_several_tokens(ctx()); }

void check_slots(Context& device) {
  Decoder d(device, 4);
  d.feed({{2, random_ids(9, 1)}, {0, random_ids(3, 2)}, {3, random_ids(1, 3)}});  // slot 1 stays empty
  d.feed({{3, random_ids(1, 4)}, {2, random_ids(1, 5)}, {0, random_ids(1, 6)}});
  d.feed({{0, random_ids(2, 7)}, {1, random_ids(5, 8)}});  // a new sequence beside a running one
  d.feed({{1, random_ids(1, 9)}, {3, random_ids(6, 10)}, {0, random_ids(1, 11)}, {2, random_ids(3, 12)}});
  d.feed({{2, random_ids(1, 13)}});
  EXPECT_EQ(d.state.length(0), 7);
  EXPECT_EQ(d.state.length(1), 6);
}
TEST(Decode, SlotsOfDifferentLengthsInAnyOrder) { check_slots(ctx()); }

void check_roll_back(Context& device) {
  for (int64_t back = 0; back <= 5; ++back) {
    SCOPED_TRACE(back);
    Decoder d(device, 2);
    d.feed({{0, random_ids(6, 1)}, {1, random_ids(4, 2)}});
    // Slot 1 is not the first of the pass, so its rows of the kept states do not begin at 0.
    d.feed({{0, random_ids(2, 3)}, {1, random_ids(5, 4)}}, true);
    d.rollback(1, back);
    d.feed({{1, random_ids(3, 5)}, {0, random_ids(1, 6)}});
    d.feed({{0, random_ids(1, 7)}, {1, random_ids(1, 8)}});
  }
}
TEST(Decode, RollBackThenOtherTokens) { check_roll_back(ctx()); }

void check_roll_back_in_steps(Context& device) {
  Decoder d(device, 2);
  d.feed({{1, random_ids(3, 1)}, {0, random_ids(4, 2)}}, true);
  d.rollback(0, 1);
  d.rollback(0, 2);
  d.rollback(1, 3);  // back to an empty slot
  d.feed({{0, random_ids(2, 3)}, {1, random_ids(2, 4)}}, true);
  d.rollback(0, 2);
  EXPECT_EQ(error_of([&] { d.state.rollback(device, 0, 1); }),
            "[decode] slot 0: roll-back by 1 tokens, the last pass kept 0");
  d.feed({{1, random_ids(1, 5)}, {0, random_ids(1, 6)}});
}
TEST(Decode, RollBackInSteps) { check_roll_back_in_steps(ctx()); }

TEST(Decode, RollBackReachesAsFarAsTheLastPassThatKeptItsStates) {
  Decoder d(ctx(), 2);
  d.feed({{0, random_ids(3, 1)}, {1, random_ids(3, 2)}}, true);
  EXPECT_EQ(error_of([&] { d.state.rollback(ctx(), 0, 4); }),
            "[decode] slot 0: roll-back by 4 tokens, the last pass kept 3");
  EXPECT_EQ(error_of([&] { d.state.rollback(ctx(), 0, -1); }),
            "[decode] slot 0: roll-back by -1 tokens, the last pass kept 3");
  EXPECT_EQ(error_of([&] { d.state.rollback(ctx(), 2, 1); }), "[decode] slot 2 of 2");
  d.feed({{0, random_ids(2, 3)}}, true);
  // Slot 1 was not in the last pass.
  EXPECT_EQ(error_of([&] { d.state.rollback(ctx(), 1, 1); }),
            "[decode] slot 1: roll-back by 1 tokens, the last pass kept 0");
  d.feed({{0, random_ids(2, 4)}});
  EXPECT_EQ(error_of([&] { d.state.rollback(ctx(), 0, 1); }),
            "[decode] slot 0: roll-back by 1 tokens, the last pass kept 0");
  d.feed({{0, random_ids(1, 5)}, {1, random_ids(1, 6)}});  // nothing was changed by the refusals
}

TEST(Decode, AResetSlotStartsAfresh) {
  Decoder d(ctx(), 2, 9);
  d.feed({{0, random_ids(9, 1)}, {1, random_ids(4, 2)}}, true);
  d.reset(0);
  EXPECT_EQ(error_of([&] { d.state.rollback(ctx(), 0, 1); }),
            "[decode] slot 0: roll-back by 1 tokens, the last pass kept 0");
  d.feed({{1, random_ids(1, 3)}, {0, random_ids(2, 4)}});
  d.feed({{0, random_ids(1, 5)}, {1, random_ids(1, 6)}});
  EXPECT_EQ(error_of([&] { d.state.reset(ctx(), 2); }), "[decode] slot 2 of 2");
}

// Interleaved slots, roll-back, reset and another sequence in the freed pages: hidden states bit for bit as with one
// page a slot.
TEST(Decode, PagesGiveTheBitsOfOnePage) {
  const auto outputs = [](int64_t page_tokens) {
    Decoder d(ctx(), 3, 40, tiny_student(), 2, {page_tokens, 0});
    d.feed({{2, random_ids(9, 1)}, {0, random_ids(3, 2)}});
    for (uint64_t i = 0; i < 6; ++i) d.feed({{0, random_ids(1, 10 + i)}, {2, random_ids(2, 20 + i)}});
    d.feed({{2, random_ids(5, 3)}, {1, random_ids(7, 4)}}, true);
    d.rollback(2, 4);
    d.reset(0);
    d.feed({{0, random_ids(11, 5)}, {2, random_ids(1, 6)}});
    d.feed({{1, random_ids(3, 7)}, {0, random_ids(1, 8)}, {2, random_ids(1, 9)}});
    return d.outputs;
  };
  const std::vector<float> contiguous = outputs(40);
  for (const int64_t page_tokens : {1, 4, 16}) EXPECT_EQ(outputs(page_tokens), contiguous) << page_tokens;
}

TEST(Decode, PagesAreThoseOfWhatIsStored) {
  Decoder d(ctx(), 3, 40, tiny_student(), 2, {4, 6});
  EXPECT_EQ(d.state.kv().pages_in_use(), 0);
  d.feed({{0, random_ids(9, 1)}, {1, random_ids(4, 2)}}, true);
  EXPECT_EQ(d.state.kv().pages_in_use(), 4);
  d.rollback(0, 1);
  EXPECT_EQ(d.state.kv().pages_in_use(), 3);
  d.feed({{0, random_ids(7, 3)}, {1, random_ids(1, 4)}});
  EXPECT_EQ(d.state.kv().pages_in_use(), 6);
  EXPECT_EQ(error_of([&] {
              make_decode_pass(ctx(), {0, 1, 3}, d.state, {0, 2});
            }),
            "[kv_cache] found 6 pages of 4 tokens in use and 1 more wanted, expected at most 6");
  d.reset(1);
  EXPECT_EQ(d.state.kv().pages_in_use(), 4);
  d.feed({{2, random_ids(2, 5)}, {0, random_ids(1, 6)}});
}

TEST(Decode, LimitsAreErrorsThatChangeNothing) {
  Decoder d(ctx(), 2, 8);
  d.feed({{0, random_ids(7, 1)}, {1, random_ids(2, 2)}});
  const auto pass = [&](std::vector<int64_t> cu, std::vector<int64_t> slots) {
    return error_of([&] { make_decode_pass(ctx(), std::move(cu), d.state, std::move(slots)); });
  };
  EXPECT_EQ(pass({0, 1, 3}, {1, 0}), "[decode] slot 0: found 9 tokens, expected at most 8");
  EXPECT_EQ(pass({0, 1, 2}, {1, 1}), "[decode] slot 1 appears twice in one pass");
  EXPECT_EQ(pass({0, 1}, {2}), "[decode] slot 2 of 2");
  EXPECT_EQ(pass({0, 1}, {-1}), "[decode] slot -1 of 2");
  EXPECT_EQ(pass({0, 1, 2}, {0}), "[decode] found 1 slots for 2 sequences");
  EXPECT_EQ(error_of([&] { DecodeState(ctx(), tiny_config(), DType::f32, 0, 4); }),
            "[decode] found 0 slots of 4 tokens, expected positive sizes");
  d.feed({{1, random_ids(6, 3)}, {0, random_ids(1, 4)}});  // both full now
  EXPECT_EQ(pass({0, 1}, {1}), "[decode] slot 1: found 9 tokens, expected at most 8");
}

// On a GPU states, windows and pages are changed in place by kernels of their own.
TEST(DecodeCuda, TokenByTokenAndSeveralAtOnce) {
  const auto gpu = new_cuda();
  check_token_by_token(*gpu);
  check_several_tokens(*gpu);
  check_slots(*gpu);
}
TEST(DecodeCuda, RollBack) {
  const auto gpu = new_cuda();
  check_roll_back(*gpu);
  check_roll_back_in_steps(*gpu);
}

}  // namespace
}  // namespace matvlm::testing
