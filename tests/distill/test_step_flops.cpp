// Floating-point operations of a step against numbers counted by hand.
#include "distill/step_flops.h"

#include <gtest/gtest.h>

namespace matvlm::testing {
namespace {

// 2 layers of width 8 (2 heads of 4, MLP 16), vocabulary 10, layer 1 Mamba-2 with 4 taps; 3 samples of 5 positions.
ModelConfig small_config() {
  ModelConfig c;
  c.text.hidden = 8;
  c.text.layers = 2;
  c.text.heads = c.text.kv_heads = 2;
  c.text.head_dim = 4;
  c.text.mlp = 16;
  c.text.vocab = 10;
  c.text.rotary_dims = 4;
  c.mamba.ssm_layers = {1};
  return c;
}

constexpr double kT = 15;
constexpr double kMlp = 2 * kT * 2 * 8 * 16;
constexpr double kMixing = 2 * 15 * 5 * 8;  // attention, causal
constexpr double kAttention = 2 * kT * 4 * 8 * 8 + kMixing;
constexpr double kIn = 2 * kT * 8 * (4 * 8 + 2), kOut = 2 * kT * 8 * 8, kConv = 2 * kT * 3 * 8 * 4;
constexpr double kScan = 4 * kT * 8 * 4;
constexpr double kMamba = kIn + kOut + kConv + kScan;

TEST(StepFlops, LanguageModel) {
  StudentConfig student;
  student.ssm_layers = {1};
  const StepFlops found = step_flops(small_config(), student, LossConfig(), {3, 5, 0});
  EXPECT_DOUBLE_EQ(found.vision, 0);
  EXPECT_DOUBLE_EQ(found.teacher, 2 * (kAttention + kMlp));
  EXPECT_DOUBLE_EQ(found.student, kAttention + kMlp + kMamba + kMlp);
  EXPECT_DOUBLE_EQ(found.head_loss, 3 * 2 * kT * 8 * 10);
  const double weights = kIn + kOut + kConv;
  EXPECT_DOUBLE_EQ(found.layer_pass, kMamba + weights + 2 * kScan + kOut);
  // Layer 1 only: its input gradients with the SSD twice, its matrices' gradients.
  EXPECT_DOUBLE_EQ(found.backward, kMamba + kMlp + kScan + weights);
  EXPECT_DOUBLE_EQ(found.total(), found.teacher + found.student + found.head_loss + found.layer_pass + found.backward);
}

TEST(StepFlops, TrainingLowerDownReachesLowerLayers) {
  StudentConfig student;
  student.ssm_layers = {1};
  LossConfig no_layer;
  no_layer.layer = LayerLossKind::none;
  const StepFlops high = step_flops(small_config(), student, no_layer, {3, 5, 0});
  EXPECT_DOUBLE_EQ(high.layer_pass, 0);
  student.trainable = {"language_model.model.layers.0.mlp.fc1.weight"};
  const StepFlops low = step_flops(small_config(), student, no_layer, {3, 5, 0});
  EXPECT_DOUBLE_EQ(low.backward - high.backward, kAttention + kMlp + kMixing + kMlp / 2);
}

TEST(StepFlops, Pictures) {
  ModelConfig config = small_config();
  config.vision.emplace();
  config.vision->hidden = 6;
  config.vision->mlp = 12;
  config.vision->layers = 3;  // of which 2 run
  config.vision->heads = 2;
  config.vision->image_size = 4;
  config.vision->patch_size = 2;
  StudentConfig student;
  student.ssm_layers = {1};
  const StepFlops found = step_flops(config, student, LossConfig(), {3, 5, 3});
  const double rows = 12;
  const double connector = 2 * rows * (6 * 8 + 8 * 8);
  const double block = 2 * rows * (4 * 6 * 6 + 2 * 6 * 12) + 4 * rows * 4 * 6;
  EXPECT_DOUBLE_EQ(found.vision, 2 * rows * 12 * 6 + 2 * block + connector);
  EXPECT_DOUBLE_EQ(found.student, kAttention + kMlp + kMamba + kMlp + connector);
}

}  // namespace
}  // namespace matvlm::testing
