// Generation against repeated full forward passes, its ends, and sampling that depends on (seed, row, position) alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "autograd/ops/head_loss.h"
#include "core/error.h"
#include "distill/generate.h"
#include "tests/support/tiny_model.h"

namespace matvlm::testing {
namespace {

using Ids = std::vector<int32_t>;
using Answers = std::vector<Ids>;

Context& ctx() {
  static const std::unique_ptr<Context> context = make_cpu_context(2);
  return *context;
}

const TinyModels& models() {
  static const std::unique_ptr<TinyModels> m = make_tiny_models(ctx(), tiny_student());
  return *m;
}

// Prompts of different lengths, the second and third with an image.
MicroBatch prompts() {
  MicroBatch batch = tiny_batch({tiny_sample(2), tiny_sample(0), tiny_sample(4), tiny_sample(5)});
  batch.rows.labels.clear();
  return batch;
}

Tensor image_tokens(const MicroBatch& batch) {
  return encode_images(ctx(), models().student, batch.images, batch.n_images, DType::f32);
}

Answers generate(const MicroBatch& batch, const GenerateOptions& options) {
  return generate_tokens(ctx(), models().student, batch.rows, image_tokens(batch), DType::f32, options);
}

// Row b of the batch on its own, its image included.
MicroBatch row_of(const MicroBatch& batch, size_t b) {
  MicroBatch out;
  out.image_size = batch.image_size;
  out.rows.ids.assign(batch.rows.ids.begin() + batch.rows.cu[b], batch.rows.ids.begin() + batch.rows.cu[b + 1]);
  out.rows.cu = {0, static_cast<int64_t>(out.rows.ids.size())};
  const int64_t image = batch.rows.image_of_row[b];
  out.rows.image_of_row = {image < 0 ? -1 : 0};
  const int64_t pixels = 3 * batch.image_size * batch.image_size;
  if (image >= 0) {
    out.images.assign(batch.images.begin() + image * pixels, batch.images.begin() + (image + 1) * pixels);
    out.n_images = 1;
  }
  return out;
}

// The logits after prompt and `answer`, by a full pass without any state.
std::vector<float> logits_after(MicroBatch row, const Ids& answer) {
  row.rows.ids.insert(row.rows.ids.end(), answer.begin(), answer.end());
  row.rows.cu[1] += static_cast<int64_t>(answer.size());
  Graph g(ctx(), false);
  const Vlm& model = models().student;
  const SplicedRows rows = splice_rows(row.rows, 4, true, 0, model.config.text.vocab);
  const Var tokens = row.n_images > 0 ? g.constant(image_tokens(row)) : Var();
  const Pass pass = make_pass(ctx(), rows.cu);
  const Tensor h = run_text(g, model.text, run_embedding(g, model.text, tokens, rows), pass).value();
  const Affine& head = model.text.head;
  return head_logits(ctx(), h.slice_rows(h.rows() - 1, h.rows()), head.weight.value, head.bias.value).to_floats(ctx());
}

int32_t arg_max(const std::vector<float>& x) {
  return static_cast<int32_t>(std::max_element(x.begin(), x.end()) - x.begin());
}

Ids greedy_by_full_passes(const MicroBatch& row, int64_t tokens) {
  Ids answer;
  for (int64_t i = 0; i < tokens; ++i) answer.push_back(arg_max(logits_after(row, answer)));
  return answer;
}

TEST(Generate, GreedyEqualsTheArgMaxOfFullPasses) {
  const MicroBatch batch = prompts();
  GenerateOptions options;
  options.max_new_tokens = 9;
  const Answers answers = generate(batch, options);
  ASSERT_EQ(answers.size(), 4U);
  std::set<Ids> different;
  for (size_t b = 0; b < answers.size(); ++b) {
    EXPECT_EQ(answers[b], greedy_by_full_passes(row_of(batch, b), 9)) << "row " << b;
    different.insert(answers[b]);
  }
  EXPECT_EQ(different.size(), 4U);  // the prompts matter
}

TEST(Generate, TheImageMatters) {
  MicroBatch batch = row_of(prompts(), 1);
  GenerateOptions options;
  options.max_new_tokens = 9;
  const Answers first = generate(batch, options);
  for (float& x : batch.images) x = -2 * x;
  EXPECT_NE(generate(batch, options), first);
}

TEST(Generate, EveryRowEndsAtItsEndToken) {
  const MicroBatch batch = prompts();
  GenerateOptions options;
  options.max_new_tokens = 9;
  const Answers all = generate(batch, options);
  for (const size_t stop : {size_t{0}, size_t{3}}) {
    options.end_token = all[1][stop];
    const Answers answers = generate(batch, options);
    for (size_t b = 0; b < answers.size(); ++b) {
      const auto end = std::find(all[b].begin(), all[b].end(), options.end_token);
      EXPECT_EQ(answers[b], Ids(all[b].begin(), end)) << "row " << b;
    }
    EXPECT_LE(answers[1].size(), stop);
  }
}

TEST(Generate, NumbersOfNewTokens) {
  const MicroBatch batch = prompts();
  GenerateOptions options;
  options.max_new_tokens = 5;
  const Answers five = generate(batch, options);
  for (const int64_t n : {0, 1, 2}) {
    options.max_new_tokens = n;
    const Answers answers = generate(batch, options);
    for (size_t b = 0; b < answers.size(); ++b) EXPECT_EQ(answers[b], Ids(five[b].begin(), five[b].begin() + n));
  }
}

// Prompt and answer, image tokens included, are never longer than max_length; what fits is as without it.
TEST(Generate, MaxLengthEndsLongRowsAndNotShortOnes) {
  const MicroBatch batch = prompts();
  const SplicedRows rows = splice_rows(batch.rows, 4, true, 0, 61);
  GenerateOptions options;
  options.max_new_tokens = 6;
  const Answers all = generate(batch, options);
  int64_t longest = 0;
  for (size_t b = 0; b < 4; ++b) longest = std::max(longest, rows.cu[b + 1] - rows.cu[b]);
  bool some_cut = false, some_whole = false;
  for (const int64_t limit : {longest, longest + 1, longest + 3}) {
    options.max_length = limit;
    const Answers answers = generate(batch, options);
    for (size_t b = 0; b < 4; ++b) {
      const int64_t room = std::min<int64_t>(6, limit - (rows.cu[b + 1] - rows.cu[b]));
      EXPECT_EQ(answers[b], Ids(all[b].begin(), all[b].begin() + room)) << "row " << b << " in " << limit;
      some_cut = some_cut || room < 6;
      some_whole = some_whole || room == 6;
    }
  }
  EXPECT_TRUE(some_cut && some_whole);
}

// A prompt that is too long is cut as in training, and leaves no room for an answer.
TEST(Generate, APromptLongerThanMaxLength) {
  GenerateOptions options;
  options.max_length = 3;
  EXPECT_EQ(generate(row_of(prompts(), 0), options), Answers{{}});
}

TEST(Generate, TokensAreReportedAsTheyAppear) {
  const MicroBatch batch = prompts();
  GenerateOptions options;
  options.max_new_tokens = 4;
  std::map<int64_t, Ids> reported;
  std::vector<int64_t> order;
  const Answers answers = generate_tokens(ctx(), models().student, batch.rows, image_tokens(batch), DType::f32, options,
                                          [&](int64_t row, int32_t token) {
                                            reported[row].push_back(token);
                                            order.push_back(row);
                                          });
  for (int64_t b = 0; b < 4; ++b) EXPECT_EQ(reported[b], answers[static_cast<size_t>(b)]);
  EXPECT_EQ(order, (std::vector<int64_t>{0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3}));
}

TEST(Generate, SamplingIsAFunctionOfSeedRowAndPosition) {
  const MicroBatch batch = prompts();
  GenerateOptions options;
  options.max_new_tokens = 8;
  options.temperature = 1.5;
  options.seed = 42;
  const Answers first = generate(batch, options);
  EXPECT_EQ(generate(batch, options), first);
  // Row 0 draws the same numbers whether the others are there or not.
  EXPECT_EQ(generate(row_of(batch, 0), options)[0], first[0]);
  options.max_new_tokens = 3;
  for (size_t b = 0; b < 4; ++b) EXPECT_EQ(generate(batch, options)[b], Ids(first[b].begin(), first[b].begin() + 3));
  options.max_new_tokens = 8;
  options.seed = 43;
  EXPECT_NE(generate(batch, options), first);
  // The same prompt in another row draws other numbers.
  const MicroBatch twice = tiny_batch({tiny_sample(2), tiny_sample(2)});
  TokenRows rows = twice.rows;
  rows.labels.clear();
  const Answers both = generate_tokens(ctx(), models().student, rows, Tensor(), DType::f32, options);
  EXPECT_NE(both[0], both[1]);
}

TEST(Generate, ASmallTemperatureIsGreedy) {
  GenerateOptions options;
  options.max_new_tokens = 8;
  const Answers greedy = generate(prompts(), options);
  options.temperature = 1e-4;
  EXPECT_EQ(generate(prompts(), options), greedy);
}

// Frequencies of the first token over many rows of one prompt against the softmax: the sum of squared deviations in
// units of their variance is chi-squared with 60 degrees of freedom; 120 is exceeded with probability 1e-5.
TEST(Generate, SamplingFollowsTheSoftmax) {
  const TinySample sample = tiny_sample(2);
  constexpr int64_t kRows = 4000;
  MicroBatch batch = tiny_batch(std::vector<TinySample>(kRows, {{sample.ids[0], sample.ids[1]}, {}, {}}));
  GenerateOptions options;
  options.max_new_tokens = 1;
  options.temperature = 2.0;
  options.seed = 7;
  std::vector<double> counts(61, 0.0);
  for (const Ids& answer : generate_tokens(ctx(), models().student, batch.rows, Tensor(), DType::f32, options)) {
    counts[static_cast<size_t>(answer[0])] += 1;
  }
  const std::vector<float> logits = logits_after(row_of(batch, 0), {});
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) / 2.0);
  double chi_squared = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double expected = kRows * std::exp(static_cast<double>(logits[i]) / 2.0) / sum;
    chi_squared += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  EXPECT_LT(chi_squared, 120.0);
}

TEST(Generate, EmptyAndImpossiblePrompts) {
  GenerateOptions options;
  TokenRows none;
  none.cu = {0};
  EXPECT_TRUE(generate_tokens(ctx(), models().student, none, Tensor(), DType::f32, options).empty());
  const auto error = [&](const TokenRows& rows) {
    try {
      generate_tokens(ctx(), models().student, rows, Tensor(), DType::f32, options);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  TokenRows rows;
  rows.ids = {3};
  rows.cu = {0, 1, 1};
  rows.image_of_row = {-1, -1};
  EXPECT_EQ(error(rows), "[generate] prompt 1 is empty");
  rows.ids = {3, 61};
  rows.cu = {0, 2};
  rows.image_of_row = {-1};
  EXPECT_EQ(error(rows), "[splice] row 0, token 1: found id 61, expected 0 to 60");
}

}  // namespace
}  // namespace matvlm::testing
