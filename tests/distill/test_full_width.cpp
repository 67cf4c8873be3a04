// The bf16 step at full width against the float32 step of the same weights, by the rule of twice the rounding: the
// weights of the float32 oracle are once rounded to bf16 and once not, and what that one rounding does to a loss or a
// gradient is the measure. The bf16 step rounds activations besides, about as often as weights.
#include <gtest/gtest.h>

#include <map>

#include "autograd/ops/cast.h"
#include "launch/bench_step.h"
#include "tests/support/op_check.h"
#include "tests/support/tiny_model.h"

namespace matvlm::testing {
namespace {

constexpr double kUlp = 1.0 / 256;  // of bf16, relative

struct Outcome {
  std::map<std::string, double> losses;
  std::map<std::string, std::vector<float>> gradients;
};

std::vector<float> rounded(std::vector<float> values) {
  for (float& v : values) v = static_cast<float>(bf16(v));
  return values;
}

// Every weight of the models as bf16 holds it.
void round_weights(Context& ctx, const TrainingModels& models) {
  for (const auto& [name, tensor] : models.teacher->weights.frozen()) {
    if (tensor.dtype() == DType::bf16) continue;
    const Tensor narrow = Tensor::empty(ctx, tensor.shape(), DType::bf16);
    cast_into(ctx, tensor, narrow);
    cast_into(ctx, narrow, tensor);
  }
  for (const auto& p : models.weights.store().parameters()) {
    set_parameter(ctx, *p, rounded(p->master.to_floats(ctx)));
  }
}

MicroBatch one_sample(const ModelConfig& config, int64_t words) {
  const Rng rng{9, stream_of("sample")};
  MicroBatch out;
  out.n_images = 1;
  out.image_size = config.vision->image_size;
  out.images.resize(static_cast<size_t>(3 * out.image_size * out.image_size));
  // As bf16 holds them, so that both see the same picture.
  for (size_t i = 0; i < out.images.size(); ++i)
    out.images[i] = static_cast<float>(bf16(static_cast<float>(rng.normal(i))));
  out.rows.ids = {kImageId};
  out.rows.labels = {kNoLabel};
  for (int64_t i = 0; i < words; ++i) {
    const auto id = static_cast<int32_t>(
        rng.below((1ULL << 40) + static_cast<uint64_t>(i), static_cast<uint64_t>(config.text.vocab)));
    out.rows.ids.push_back(id);
    out.rows.labels.push_back(id);
  }
  out.rows.cu = {0, words + 1};
  out.rows.image_of_row = {0};
  return out;
}

class Step {
 public:
  Step(Context& ctx, const ModelConfig& teacher, DType dtype, bool round) : ctx_(ctx), dtype_(dtype) {
    StudentConfig student;
    student.ssm_layers = {0};
    models_ = make_random_models(ctx, teacher, student, dtype, 21);
    if (round) round_weights(ctx, models_);
  }
  const TrainingModels& models() const { return models_; }

  Outcome run(int64_t words) const {
    Models models;
    models.teacher = &models_.teacher->vlm;
    models.student = &models_.vlm;
    models.dtype = dtype_;
    LossConfig loss;
    loss.ce_weight = 1;
    const MicroBatch batch = one_sample(models_.config, words);
    const SplicedRows rows = splice_for(models, batch);
    const ParameterStore& store = models_.weights.store();
    store.zero_grad(ctx_);
    const LossTerms terms = run_micro_batch(ctx_, models, loss, batch, rows, count_rows(rows, loss.positions), true);
    Outcome out;
    out.losses = {{"logit", terms.logit}, {"layer", terms.layer}, {"ce", terms.ce}, {"total", terms.total}};
    for (const auto& p : store.parameters()) out.gradients[p->name] = p->grad.to_floats(ctx_);
    return out;
  }

 private:
  Context& ctx_;
  DType dtype_;
  TrainingModels models_;
};

// What of `found` is further from `exact` than the rule allows. `rounding`: exact but for the rounding of the weights.
std::vector<std::string> violations(const Outcome& found, const Outcome& exact, const Outcome& rounding) {
  std::vector<std::string> out;
  const auto test = [&](const std::string& name, double error, double measure) {
    const double bound = 2 * measure + kUlp;
    if (!(error <= bound)) out.push_back(cat(name, ": error ", error, ", at most ", bound));
  };
  for (const auto& [name, value] : exact.losses) {
    test(name, std::abs(found.losses.at(name) - value) / std::abs(value),
         std::abs(rounding.losses.at(name) - value) / std::abs(value));
  }
  for (const auto& [name, values] : exact.gradients) {
    test(name, relative_error(found.gradients.at(name), values), relative_error(rounding.gradients.at(name), values));
  }
  return out;
}

ModelConfig slice_config(bool full_width) {
  ModelConfig c = tiny_config(4);
  c.text.layers = 2;
  c.vision->layers = 3;  // of which 2 run
  if (!full_width) return c;
  c.text.hidden = 2560;
  c.text.heads = c.text.kv_heads = 32;
  c.text.head_dim = 80;
  c.text.mlp = 10240;
  c.text.vocab = 51200;
  c.text.rotary_dims = 32;
  c.vision->hidden = 1152;
  c.vision->mlp = 4304;
  c.vision->heads = 16;
  c.vision->image_size = 384;
  c.vision->patch_size = 14;
  c.vision->drop_first_patch = false;
  return c;
}

// The rule itself, where there is no bf16: the same step passes, and a connector that is 5 % off does not.
TEST(FullWidthStep, TheRuleSeesAWrongStep) {
  const ModelConfig config = slice_config(false);
  const Outcome rounding = Step(cpu(), config, DType::f32, false).run(9);
  const Step step(cpu(), config, DType::f32, true);
  const Outcome exact = step.run(9);
  EXPECT_TRUE(violations(step.run(9), exact, rounding).empty());
  for (const auto& [name, values] : exact.gradients) {
    const double measure = relative_error(rounding.gradients.at(name), values);
    EXPECT_TRUE(measure > 1e-4 && measure < 0.2) << name << ": one rounding of the weights moves it by " << measure;
  }
  const Parameter& p = *step.models().weights.store().find("connector._connector.2.weight");
  std::vector<float> values = p.master.to_floats(cpu());
  for (float& v : values) v *= 1.05F;
  set_parameter(cpu(), p, values);
  EXPECT_FALSE(violations(step.run(9), exact, rounding).empty());
}

TEST(FullWidthStepCuda, Bf16AgainstFloat32) {
  const auto ctx = new_cuda();
  const ModelConfig config = slice_config(true);
  Outcome rounding, exact, found;
  rounding = Step(*ctx, config, DType::f32, false).run(295);
  exact = Step(*ctx, config, DType::f32, true).run(295);
  found = Step(*ctx, config, DType::bf16, true).run(295);
  for (const std::string& text : violations(found, exact, rounding)) ADD_FAILURE() << text;
}

}  // namespace
}  // namespace matvlm::testing
