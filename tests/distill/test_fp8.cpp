// Distillation with the frozen matrices in fp8: which tensors that moves, and that it learns as without.
#include <gtest/gtest.h>

#include "core/error.h"
#include "layers/vlm.h"
#include "tests/support/errors.h"
#include "tests/support/tiny_model.h"

namespace matvlm::testing {
namespace {

Context& ctx() {
  static const std::unique_ptr<Context> context = make_cpu_context(2);
  return *context;
}

std::unique_ptr<TinyModels> models_in_fp8() {
  auto out = std::make_unique<TinyModels>();
  out->teacher_config = tiny_config();
  out->student_config = student_config(out->teacher_config, tiny_student());
  const ValueSource values = tiny_values(out->teacher_config);
  out->teacher_weights = make_weights(
      ctx(), out->teacher_config, DType::f32, [](const std::string&) { return false; }, values);
  hold_in_fp8(ctx(), out->teacher_config, out->teacher_weights);
  out->student_weights =
      make_student_weights(ctx(), out->student_config, tiny_student(), out->teacher_weights, values, DType::f32, 5);
  out->teacher = make_vlm(out->teacher_weights, out->teacher_config);
  out->student = make_vlm(out->student_weights, out->student_config);
  return out;
}

TEST(FrozenFp8, MovesTheBlocksMatricesAndNothingElse) {
  const auto models = models_in_fp8();
  const ModelWeights& teacher = models->teacher_weights;
  const ModelWeights& student = models->student_weights;
  for (const std::string name : {"self_attn.q_proj", "self_attn.dense", "mlp.fc1", "mlp.fc2"}) {
    EXPECT_TRUE(teacher.fp8().contains("language_model.model.layers.1." + name + ".weight")) << name;
    EXPECT_FALSE(teacher.fp8().contains("language_model.model.layers.1." + name + ".bias")) << name;
  }
  const std::string vision = "vision_tower._vision_tower.vision_model.";
  EXPECT_TRUE(teacher.fp8().contains(vision + "encoder.layers.0.self_attn.q_proj.weight"));
  EXPECT_FALSE(teacher.fp8().contains(vision + "encoder.layers.0.mlp.fc1.weight")) << "24 is no multiple of 16";
  for (const std::string name :
       {"language_model.lm_head.weight", "language_model.model.embed_tokens.weight", "connector._connector.0.weight"}) {
    EXPECT_TRUE(teacher.frozen().contains(name)) << name;
  }
  // q, k and v stay one matrix.
  const auto& mixer = std::get<AttentionMixer>(models->student.text.blocks[1].mixer);
  ASSERT_NE(mixer.qkv.fp8, nullptr);
  EXPECT_FALSE(mixer.qkv.w.defined());
  EXPECT_EQ(mixer.qkv.fp8->shape()[0], mixer.qkv.width());
  EXPECT_EQ(mixer.qkv.fp8->rows().values.raw(), mixer.qkv.parts[0].w.fp8->rows().values.raw());
  EXPECT_EQ(mixer.qkv.fp8, std::get<AttentionMixer>(models->teacher.text.blocks[1].mixer).qkv.fp8);
  EXPECT_EQ(teacher.numel(), make_tiny_models(ctx(), tiny_student())->teacher_weights.numel());
  // Held once; what the student trains is its own and not rounded.
  for (const auto& [name, weight] : student.fp8()) {
    EXPECT_EQ(weight, teacher.fp8().at(name)) << name;
    EXPECT_FALSE(student.frozen().contains(name)) << name;
    EXPECT_EQ(student.store().find(name), nullptr) << name;
  }
  EXPECT_TRUE(student.fp8().contains("language_model.model.layers.0.mlp.fc1.weight"));
  EXPECT_FALSE(student.fp8().contains("language_model.model.layers.0.self_attn.q_proj.weight"));
  EXPECT_EQ(error_of([&] { teacher.values(ctx(), "language_model.model.layers.1.mlp.fc1.weight"); }),
            "[weights] 'language_model.model.layers.1.mlp.fc1.weight': found it in fp8, expected its values from where "
            "it was read");
}

struct Curve {
  std::vector<double> total;
  std::vector<std::vector<float>> masters;
};

Curve train(const TinyModels& models, bool recompute = false) {
  const auto comms = make_local_comms(1);
  Trainer::Setup setup = tiny_setup(ctx(), *comms[0], *comms[0], models, LossConfig());
  if (recompute) setup.models.recompute = {Recompute::blocks, 1};
  setup.optimizer.lr = 3e-3;
  setup.optimizer.clip = 1.0;
  Trainer trainer(setup);
  Curve curve;
  for (int64_t i = 0; i < 60; ++i) {
    curve.total.push_back(trainer.update({tiny_batch(0, 4), tiny_batch(4, 4)}, i + 1, 8 * i).terms.total);
  }
  curve.masters = master_values(ctx(), models.store());
  return curve;
}

TEST(FrozenFp8, LearnsAsWithout) {
  const Curve plain = train(*make_tiny_models(ctx(), tiny_student()));
  const Curve fp8 = train(*models_in_fp8());
  // Teacher and student share the rounded matrices, so what is learnt differs far less than a product does by rounding
  // (4 %): 0.5 % at most was found, while the loss falls to a fifth.
  EXPECT_LE(fp8.total.back(), 0.25 * fp8.total.front());
  for (size_t i = 0; i < plain.total.size(); ++i) {
    EXPECT_NEAR(fp8.total[i], plain.total[i], 0.02 * plain.total[i]) << "update " << i;
  }
  EXPECT_NE(fp8.total, plain.total) << "fp8 was not used";
}

TEST(FrozenFp8, TheSameBitsTwiceAndWithRecomputation) {
  const Curve first = train(*models_in_fp8());
  const Curve second = train(*models_in_fp8());
  EXPECT_EQ(first.total, second.total);
  EXPECT_EQ(first.masters, second.masters);
  const Curve recomputed = train(*models_in_fp8(), true);
  EXPECT_EQ(first.total, recomputed.total);
  EXPECT_EQ(first.masters, recomputed.masters);
}

}  // namespace
}  // namespace matvlm::testing
