// The reductions of method section 3 as coefficients, computed here by hand.
#include <gtest/gtest.h>

#include "core/error.h"
#include "distill/losses.h"

namespace matvlm {
namespace {

constexpr int32_t kNo = kNoLabel;
using Floats = std::vector<float>;

// Two rows of 5 and 3 positions; answers (labels) of 2 and 1 tokens, so targets at positions 2, 3 and 6.
SplicedRows two_rows() {
  SplicedRows rows;
  rows.source = {1, -1, -2, 4, 5, 6, 7, 8};
  rows.labels = {kNo, kNo, kNo, 4, 5, kNo, kNo, 8};
  rows.cu = {0, 5, 8};
  return rows;
}

LossConfig config(Reduction reduction, LogitLossKind logit, LayerLossKind layer, LossPositions positions) {
  LossConfig c;
  c.reduction = reduction;
  c.logit = logit;
  c.layer = layer;
  c.positions = positions;
  return c;
}

TEST(CountRows, PositionsAndAnswers) {
  const UpdateCounts all = count_rows(two_rows(), LossPositions::all);
  EXPECT_EQ(all.samples, 2);
  EXPECT_EQ(all.positions, 8);
  EXPECT_EQ(all.answers, 3);
  const UpdateCounts answers = count_rows(two_rows(), LossPositions::answers);
  EXPECT_EQ(answers.samples, 2);
  EXPECT_EQ(answers.positions, 3);
  EXPECT_EQ(answers.answers, 3);
  SplicedRows unlabelled = two_rows();
  unlabelled.labels.clear();
  for (const LossPositions positions : {LossPositions::all, LossPositions::answers}) {
    const UpdateCounts counts = count_rows(unlabelled, positions);
    EXPECT_EQ(counts.positions, 8);
    EXPECT_EQ(counts.answers, 0);
  }
}

// Denominators are the update's, of which these two rows are a part.
constexpr UpdateCounts kUpdate{8, 40, 10};

TEST(LossWeights, PublishedSumsOverPositionsAndAveragesOverSamples) {
  const LossWeights w = loss_weights(
      config(Reduction::published, LogitLossKind::kl, LayerLossKind::l2, LossPositions::all), two_rows(), kUpdate);
  EXPECT_EQ(w.logit, Floats(8, 0.125F));
  EXPECT_EQ(w.layer, Floats(8, 0.125F));
  EXPECT_EQ(w.segment, Floats(2, 0.125F));
  EXPECT_FALSE(w.logit_segment_norm);
  EXPECT_TRUE(w.layer_segment_norm);
  EXPECT_EQ(w.targets, (std::vector<int32_t>{kNo, kNo, 4, 5, kNo, kNo, 8, kNo}));
  EXPECT_EQ(w.ce, (Floats{0, 0, 0.1F, 0.1F, 0, 0, 0.1F, 0}));
}

TEST(LossWeights, PublishedMeansWithinASample) {
  const LossWeights w =
      loss_weights(config(Reduction::published, LogitLossKind::argmax_ce, LayerLossKind::mse, LossPositions::all),
                   two_rows(), kUpdate);
  const float five = 1.0F / 40, three = 1.0F / 24;  // 1 / (8 samples x positions of the sample)
  EXPECT_EQ(w.logit, (Floats{five, five, five, five, five, three, three, three}));
  EXPECT_EQ(w.layer, w.logit);
  EXPECT_FALSE(w.layer_segment_norm);
  const LossWeights l2 =
      loss_weights(config(Reduction::published, LogitLossKind::logit_l2, LayerLossKind::cosine, LossPositions::all),
                   two_rows(), kUpdate);
  EXPECT_TRUE(l2.logit_segment_norm);
  EXPECT_EQ(l2.layer, w.layer);
}

TEST(LossWeights, PublishedOnAnswers) {
  const LossWeights w =
      loss_weights(config(Reduction::published, LogitLossKind::kl, LayerLossKind::mse, LossPositions::answers),
                   two_rows(), {8, 12, 10});
  EXPECT_EQ(w.logit, (Floats{0, 0, 0.125F, 0.125F, 0, 0, 0.125F, 0}));
  EXPECT_EQ(w.layer, (Floats{0, 0, 1.0F / 16, 1.0F / 16, 0, 0, 0.125F, 0}));  // 2 and 1 counted positions
}

TEST(LossWeights, PerTokenIsTheMeanOverAllPositionsOfTheUpdate) {
  for (const LogitLossKind logit : {LogitLossKind::kl, LogitLossKind::argmax_ce, LogitLossKind::logit_l2}) {
    for (const LayerLossKind layer : {LayerLossKind::l2, LayerLossKind::mse, LayerLossKind::cosine}) {
      const LossWeights w =
          loss_weights(config(Reduction::per_token, logit, layer, LossPositions::all), two_rows(), kUpdate);
      EXPECT_EQ(w.logit, Floats(8, 0.025F));
      EXPECT_EQ(w.layer, Floats(8, 0.025F));
      EXPECT_FALSE(w.logit_segment_norm || w.layer_segment_norm);
    }
  }
  const LossWeights answers =
      loss_weights(config(Reduction::per_token, LogitLossKind::kl, LayerLossKind::l2, LossPositions::answers),
                   two_rows(), {8, 12, 10});
  EXPECT_EQ(answers.logit, (Floats{0, 0, 1.0F / 12, 1.0F / 12, 0, 0, 1.0F / 12, 0}));
}

TEST(LossWeights, RowsWithoutAnswersOrLabels) {
  SplicedRows rows = two_rows();
  rows.labels.assign(8, kNo);
  // Nothing is counted in this micro-batch, whatever the denominators, which may be 0.
  for (const Reduction reduction : {Reduction::published, Reduction::per_token}) {
    const LossWeights w =
        loss_weights(config(reduction, LogitLossKind::kl, LayerLossKind::l2, LossPositions::answers), rows, {2, 0, 0});
    EXPECT_EQ(w.logit, Floats(8, 0.0F));
    EXPECT_EQ(w.layer, Floats(8, 0.0F));
    EXPECT_EQ(w.ce, Floats(8, 0.0F));
  }
  rows.labels.clear();
  const LossWeights w = loss_weights(
      config(Reduction::published, LogitLossKind::kl, LayerLossKind::l2, LossPositions::answers), rows, kUpdate);
  EXPECT_EQ(w.logit, Floats(8, 0.125F));
  EXPECT_TRUE(w.ce.empty());
  EXPECT_TRUE(w.targets.empty());
  EXPECT_THROW(loss_weights(LossConfig(), rows, {0, 0, 0}), Error);
}

}  // namespace
}  // namespace matvlm
