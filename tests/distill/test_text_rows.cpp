// Texts that share a row: the same losses and gradients as texts in rows of their own, for a Llama-like model.
#include <gtest/gtest.h>

#include "tests/support/op_check.h"
#include "tests/support/tiny_model.h"

namespace matvlm::testing {
namespace {

Context& ctx() {
  static const std::unique_ptr<Context> context = make_cpu_context(2);
  return *context;
}

MicroBatch text_batch(const std::vector<int64_t>& rows, const std::vector<int64_t>& texts) {
  MicroBatch batch;
  for (int64_t i = 0; i < rows.back(); ++i) {
    batch.rows.ids.push_back(static_cast<int32_t>((7 * i * i + 3 * i) % 30));
  }
  batch.rows.labels = batch.rows.ids;
  batch.rows.cu = rows;
  batch.rows.image_of_row.assign(rows.size() - 1, -1);
  batch.rows.sequences = texts;
  return batch;
}

struct Result {
  LossTerms terms;
  std::vector<std::vector<float>> gradients;
};

Result run(const TinyModels& models, const LossConfig& loss, const MicroBatch& batch) {
  models.store().zero_grad(ctx());
  const SplicedRows rows = splice_for(models.models(), batch);
  Result out;
  out.terms = run_micro_batch(ctx(), models.models(), loss, batch, rows, count_rows(rows, loss.positions), true);
  out.gradients = gradients(ctx(), models.store());
  return out;
}

TEST(TextRows, PerTokenLossesDoNotDependOnWhoSharesARow) {
  const auto models = make_tiny_llama(ctx(), tiny_student());
  LossConfig loss;
  loss.reduction = Reduction::per_token;
  loss.ce_weight = 0.5;
  loss.layer_at = LayerLossAt::block;
  const std::vector<int64_t> texts = {0, 4, 9, 10, 17};
  const Result own = run(*models, loss, text_batch(texts, {}));
  const Result shared = run(*models, loss, text_batch({0, 9, 17}, texts));
  EXPECT_EQ(own.terms.correct_of, shared.terms.correct_of);
  EXPECT_NEAR(own.terms.logit, shared.terms.logit, 1e-6 * own.terms.logit);
  EXPECT_NEAR(own.terms.layer, shared.terms.layer, 1e-6 * own.terms.layer);
  EXPECT_NEAR(own.terms.ce, shared.terms.ce, 1e-6 * own.terms.ce);
  for (size_t i = 0; i < own.gradients.size(); ++i) {
    EXPECT_LE(relative_error(shared.gradients[i], own.gradients[i]), 1e-6) << i;
  }
  // Without the boundaries the later texts see the earlier ones.
  const Result mixed = run(*models, loss, text_batch({0, 9, 17}, {}));
  EXPECT_GT(std::abs(mixed.terms.layer - own.terms.layer), 1e-3 * own.terms.layer);
}

TEST(TextRows, ARowIsOneSampleOfThePublishedReduction) {
  const auto models = make_tiny_llama(ctx(), tiny_student());
  LossConfig loss;
  const Result own = run(*models, loss, text_batch({0, 9, 17}, {0, 4, 9, 17}));
  LossConfig token = loss;
  token.reduction = Reduction::per_token;
  const Result mean = run(*models, token, text_batch({0, 9, 17}, {0, 4, 9, 17}));
  // Sum over positions, mean over the two rows.
  EXPECT_NEAR(own.terms.logit, mean.terms.logit * 17 / 2, 1e-5 * own.terms.logit);
}

}  // namespace
}  // namespace matvlm::testing
