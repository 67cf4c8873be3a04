// One micro-batch: exact zeros where teacher and student are the same, losses by hand from the hidden
// states, recomputation, text-only rows.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "autograd/ops/head_loss.h"
#include "core/rng.h"
#include "tests/support/op_check.h"
#include "tests/support/tiny_model.h"

namespace matvlm::testing {
namespace {

Context& ctx() {
  static const std::unique_ptr<Context> context = make_cpu_context(2);
  return *context;
}

constexpr Reduction kReductions[] = {Reduction::published, Reduction::per_token};

struct Step {
  LossTerms terms;
  std::vector<std::vector<float>> gradients;
  StepTrace trace;
};

Step run_step(const TinyModels& models, const LossConfig& loss, const MicroBatch& batch, RecomputeSpec recompute = {},
              Models m = {}) {
  if (m.student == nullptr) m = models.models();
  m.recompute = recompute;
  Step step;
  begin_poisoned(ctx(), models.store());
  const SplicedRows rows = splice_for(m, batch);
  step.terms = run_micro_batch(ctx(), m, loss, batch, rows, count_rows(rows, loss.positions), true, {}, &step.trace);
  settle_all(ctx(), models.store());
  step.gradients = gradients(ctx(), models.store());
  return step;
}

double norm(const std::vector<float>& x) {
  double sum = 0;
  for (const float v : x) sum += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(sum);
}

bool all_zero(const std::vector<float>& x) {
  return std::all_of(x.begin(), x.end(), [](float v) { return v == 0.0F; });  // NaN is not
}

// ---------------------------------------------------------------------------------------------------------------------

TEST(TeacherIsStudent, LossesAndGradientsAreExactlyZero) {
  StudentConfig student;  // no Mamba layer
  student.trainable = {"*layers.1.*", "*layers.3.mlp.fc1.*"};
  const auto models = make_tiny_models(ctx(), student);
  ASSERT_GT(models->store().parameters().size(), 14U);
  for (const LogitLossKind kind :
       {LogitLossKind::kl, LogitLossKind::reverse_kl, LogitLossKind::jsd, LogitLossKind::logit_l2}) {
    for (const Reduction reduction : kReductions) {
      for (const LossPositions positions : {LossPositions::all, LossPositions::answers}) {
        LossConfig loss;
        loss.logit = kind;
        loss.reduction = reduction;
        loss.positions = positions;
        loss.temperature = 1.7;
        const Step step = run_step(*models, loss, tiny_batch(0, 4));
        EXPECT_EQ(step.terms.logit, 0.0);
        EXPECT_EQ(step.terms.layer, 0.0);
        EXPECT_EQ(step.terms.total, 0.0);
        EXPECT_EQ(step.terms.agree, step.terms.agree_of);
        EXPECT_GT(step.terms.agree_of, 0.0);
        EXPECT_GT(step.terms.ce, 0.0);  // reported, with weight 0
        for (size_t i = 0; i < step.gradients.size(); ++i) {
          EXPECT_TRUE(all_zero(step.gradients[i])) << models->store().parameters()[i]->name;
        }
      }
    }
  }
}

// The same set-up one weight apart is not 0, so the test above can fail.
TEST(TeacherIsStudent, OneChangedWeightShows) {
  const auto models = make_tiny_models(ctx(), StudentConfig());
  const Parameter& bias = *models->store().find("connector._connector.2.bias");
  std::vector<float> values = bias.master.to_floats(ctx());
  values[3] += 0.01F;
  set_parameter(ctx(), bias, values);
  const Step step = run_step(*models, LossConfig(), tiny_batch(0, 4));
  EXPECT_GT(step.terms.logit, 0.0);
  for (size_t i = 0; i < step.gradients.size(); ++i) {
    EXPECT_FALSE(all_zero(step.gradients[i])) << models->store().parameters()[i]->name;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

// A student whose mixers are the attention's values still differs from its teacher, so every loss has a size.
const TinyModels& hybrid() {
  static const std::unique_ptr<TinyModels> models = make_tiny_models(ctx(), tiny_student());
  return *models;
}

std::vector<double> log_softmax(const std::vector<float>& logits, size_t row, size_t vocab, double temperature) {
  std::vector<double> out(vocab);
  double largest = -std::numeric_limits<double>::infinity();
  for (size_t v = 0; v < vocab; ++v) {
    out[v] = static_cast<double>(logits[row * vocab + v]) / temperature;
    largest = std::max(largest, out[v]);
  }
  double sum = 0;
  for (const double x : out) sum += std::exp(x - largest);
  for (double& x : out) x -= largest + std::log(sum);
  return out;
}

double kl(const std::vector<double>& log_p, const std::vector<double>& log_q) {
  double sum = 0;
  for (size_t v = 0; v < log_p.size(); ++v) sum += std::exp(log_p[v]) * (log_p[v] - log_q[v]);
  return sum;
}

// Losses of method section 3 from the hidden states of the step, position by position, in double.
class ByHand {
 public:
  ByHand(const Step& step, const SplicedRows& rows, LossPositions positions, double temperature)
      : rows_(rows), targets_(rows.targets()), positions_(positions), temperature_(temperature) {
    const Affine& head = hybrid().teacher.text.head;
    const auto logits = [&](const Tensor& h) {
      return head_logits(ctx(), h, head.weight.value, head.bias.value).to_floats(ctx());
    };
    teacher_ = logits(step.trace.teacher_final);
    student_ = logits(step.trace.student_final);
  }
  bool counted(int64_t t) const {
    return positions_ == LossPositions::all || targets_[static_cast<size_t>(t)] != kNoLabel;
  }
  double position(LogitLossKind kind, int64_t t) const {
    const auto row = static_cast<size_t>(t);
    const std::vector<double> p = log_softmax(teacher_, row, kVocab, temperature_);
    const std::vector<double> q = log_softmax(student_, row, kVocab, temperature_);
    const double square = temperature_ * temperature_;
    if (kind == LogitLossKind::kl) return square * kl(p, q);
    if (kind == LogitLossKind::reverse_kl) return square * kl(q, p);
    if (kind == LogitLossKind::argmax_ce) {
      const auto best = static_cast<size_t>(std::max_element(p.begin(), p.end()) - p.begin());
      return -log_softmax(student_, row, kVocab, 1.0)[best];
    }
    if (kind == LogitLossKind::logit_l2) {
      double sum = 0;
      for (size_t v = 0; v < kVocab; ++v) {
        const double d =
            static_cast<double>(teacher_[row * kVocab + v]) - static_cast<double>(student_[row * kVocab + v]);
        sum += d * d;
      }
      return std::sqrt(sum);
    }
    std::vector<double> m(kVocab);
    for (size_t v = 0; v < kVocab; ++v) m[v] = std::log(0.5 * (std::exp(p[v]) + std::exp(q[v])));
    return square * 0.5 * (kl(p, m) + kl(q, m));
  }
  double loss(LogitLossKind kind, Reduction reduction) const {
    double total = 0, of = 0;
    for (size_t b = 0; b + 1 < rows_.cu.size(); ++b) {
      double sum = 0, squares = 0, n = 0;
      for (int64_t t = rows_.cu[b]; t < rows_.cu[b + 1]; ++t) {
        if (!counted(t)) continue;
        const double value = position(kind, t);
        sum += value;
        squares += value * value;
        n += 1;
      }
      const bool published = reduction == Reduction::published;
      if (published && kind == LogitLossKind::logit_l2) sum = std::sqrt(squares);
      if (published && kind == LogitLossKind::argmax_ce) sum /= n;
      total += sum;
      of += published ? 1 : n;
    }
    return total / of;
  }
  double label_loss() const {
    double sum = 0, n = 0;
    for (size_t t = 0; t < targets_.size(); ++t) {
      if (targets_[t] == kNoLabel) continue;
      sum -= log_softmax(student_, t, kVocab, 1.0)[static_cast<size_t>(targets_[t])];
      n += 1;
    }
    return sum / n;
  }

 private:
  static constexpr size_t kVocab = 61;
  const SplicedRows& rows_;
  std::vector<int32_t> targets_;
  LossPositions positions_;
  double temperature_;
  std::vector<float> teacher_, student_;
};

// Both sides round logits to float32; sums are in double.
constexpr double kLossTolerance = 1e-5;

void expect_close(double found, double expected, const std::string& what) {
  EXPECT_LE(std::abs(found - expected), kLossTolerance * std::abs(expected))
      << what << ": found " << found << ", expected " << expected;
}

TEST(StepLosses, LogitLossesByHand) {
  const MicroBatch batch = tiny_batch(0, 5);
  const SplicedRows rows = splice_for(hybrid().models(), batch);
  for (const LogitLossKind kind : {LogitLossKind::kl, LogitLossKind::reverse_kl, LogitLossKind::jsd,
                                   LogitLossKind::argmax_ce, LogitLossKind::logit_l2}) {
    for (const Reduction reduction : kReductions) {
      for (const LossPositions positions : {LossPositions::all, LossPositions::answers}) {
        LossConfig loss;
        loss.logit = kind;
        loss.reduction = reduction;
        loss.positions = positions;
        loss.temperature = 2.0;
        loss.logit_weight = 3.0;
        loss.layer_weight = 0.5;
        loss.ce_weight = 0.25;
        const Step step = run_step(hybrid(), loss, batch);
        const ByHand by_hand(step, rows, positions, 2.0);
        const std::string what = cat("kind ", static_cast<int>(kind), " reduction ", static_cast<int>(reduction));
        expect_close(step.terms.logit, by_hand.loss(kind, reduction), what);
        expect_close(step.terms.ce, by_hand.label_loss(), "label loss");
        expect_close(step.terms.total, 3.0 * step.terms.logit + 0.5 * step.terms.layer + 0.25 * step.terms.ce, "total");
        EXPECT_EQ(step.terms.agree_of, static_cast<double>(count_rows(rows, positions).positions));
        EXPECT_EQ(step.terms.correct_of, static_cast<double>(count_rows(rows, positions).answers));
      }
    }
  }
}

// The mixer of layer `layer` of the student on the teacher's normed input against the teacher's own mixer, by hand.
std::vector<std::vector<double>> mixer_differences(const Step& step, const SplicedRows& rows, int64_t layer) {
  Graph g(ctx(), false);
  const Pass pass = make_pass(ctx(), rows.cu);
  const auto mixed = [&](const Vlm& model) {
    const Block& block = model.text.blocks[static_cast<size_t>(layer)];
    const Var h = g.constant(step.trace.teacher_hidden[static_cast<size_t>(layer)]);
    return run_mixer(g, block, run_norm(g, block.norm, h), pass, layer).value().to_floats(ctx());
  };
  const std::vector<float> t = mixed(hybrid().teacher), s = mixed(hybrid().student);
  std::vector<std::vector<double>> out(rows.source.size());
  const size_t width = t.size() / out.size();
  for (size_t i = 0; i < t.size(); ++i) out[i / width].push_back(static_cast<double>(s[i]) - static_cast<double>(t[i]));
  return out;
}

double layer_by_hand(const std::vector<std::vector<double>>& d, const SplicedRows& rows, LayerLossKind kind,
                     Reduction reduction, LossPositions positions) {
  const std::vector<int32_t> targets = rows.targets();
  double total = 0, of = 0;
  for (size_t b = 0; b + 1 < rows.cu.size(); ++b) {
    double sum = 0, squares = 0, n = 0;
    for (auto t = static_cast<size_t>(rows.cu[b]); t < static_cast<size_t>(rows.cu[b + 1]); ++t) {
      if (positions == LossPositions::answers && targets[t] == kNoLabel) continue;
      double square = 0;
      for (const double x : d[t]) square += x * x;
      squares += square;
      sum += kind == LayerLossKind::l2 ? std::sqrt(square) : square / static_cast<double>(d[t].size());
      n += 1;
    }
    const bool published = reduction == Reduction::published;
    if (published) sum = kind == LayerLossKind::l2 ? std::sqrt(squares) : sum / n;
    total += sum;
    of += published ? 1 : n;
  }
  return total / of;
}

TEST(StepLosses, LayerLossesByHand) {
  const MicroBatch batch = tiny_batch(0, 5);
  const SplicedRows rows = splice_for(hybrid().models(), batch);
  for (const LayerLossKind kind : {LayerLossKind::l2, LayerLossKind::mse}) {
    for (const Reduction reduction : kReductions) {
      for (const LossPositions positions : {LossPositions::all, LossPositions::answers}) {
        LossConfig loss;
        loss.layer = kind;
        loss.reduction = reduction;
        loss.positions = positions;
        const Step step = run_step(hybrid(), loss, batch);
        ASSERT_EQ(step.terms.layer_each.size(), 2U);
        for (size_t i = 0; i < 2; ++i) {
          const int64_t layer = hybrid().student_config.mamba.ssm_layers[i];
          const double expected = layer_by_hand(mixer_differences(step, rows, layer), rows, kind, reduction, positions);
          EXPECT_GT(expected, 0.0);
          expect_close(step.terms.layer_each[i], expected, cat("layer ", layer));
        }
        expect_close(step.terms.layer, step.terms.layer_each[0] + step.terms.layer_each[1], "layer loss");
      }
    }
  }
}

// Gradients are those of the weighted total: linear in the three weights.
TEST(StepLosses, WeightsScaleTheGradients) {
  const MicroBatch batch = tiny_batch(0, 4);
  const auto with = [&](double logit, double layer, double ce) {
    LossConfig loss;
    loss.logit_weight = logit;
    loss.layer_weight = layer;
    loss.ce_weight = ce;
    return run_step(hybrid(), loss, batch).gradients;
  };
  const auto logit = with(1, 0, 0), layer = with(0, 1, 0), ce = with(0, 0, 1), all = with(0.5, 2, 3);
  for (size_t i = 0; i < all.size(); ++i) {
    std::vector<double> sum;
    for (size_t k = 0; k < all[i].size(); ++k) {
      sum.push_back(0.5 * static_cast<double>(logit[i][k]) + 2 * static_cast<double>(layer[i][k]) +
                    3 * static_cast<double>(ce[i][k]));
    }
    // Float32 gradients through four layers.
    EXPECT_LE(relative_error(all[i], sum), 1e-5) << hybrid().store().parameters()[i]->name;
  }
}

// The layer loss reaches its own layer's mixer and nothing else; the logit loss reaches everything.
TEST(StepLosses, WhichLossTrainsWhat) {
  LossConfig layer_only;
  layer_only.logit = LogitLossKind::none;
  const Step layer = run_step(hybrid(), layer_only, tiny_batch(0, 4));
  EXPECT_EQ(layer.terms.logit, 0.0);
  EXPECT_EQ(layer.terms.total, layer.terms.layer);
  LossConfig logit_only;
  logit_only.layer = LayerLossKind::none;
  const Step logit = run_step(hybrid(), logit_only, tiny_batch(0, 4));
  EXPECT_TRUE(logit.terms.layer_each.empty());
  for (size_t i = 0; i < layer.gradients.size(); ++i) {
    const std::string& name = hybrid().store().parameters()[i]->name;
    EXPECT_EQ(all_zero(layer.gradients[i]), name.starts_with("connector.")) << name;
    EXPECT_FALSE(all_zero(logit.gradients[i])) << name;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const std::vector<RecomputeSpec> kRecomputed = {
    {Recompute::mlp},          {Recompute::mixers},          {Recompute::blocks},
    {Recompute::mlp, 2},       {Recompute::mixers, 3},       {Recompute::blocks, 2},
    {Recompute::mlp, 1, 1, 4}, {Recompute::mixers, 1, 2, 4}, {Recompute::blocks, 1, 3, 4}};

void expect_same_bits_recomputed(const TinyModels& models, const MicroBatch& batch) {
  for (const Reduction reduction : kReductions) {
    LossConfig loss;
    loss.reduction = reduction;
    loss.ce_weight = 0.5;
    const Step kept = run_step(models, loss, batch);
    for (const RecomputeSpec& recompute : kRecomputed) {
      SCOPED_TRACE(cat("mode ", static_cast<int>(recompute.what), " every ", recompute.every, ", ", recompute.layers,
                       " of ", recompute.of));
      const Step again = run_step(models, loss, batch, recompute);
      EXPECT_EQ(kept.terms.total, again.terms.total);
      for (size_t i = 0; i < kept.gradients.size(); ++i) {
        const std::string& name = models.store().parameters()[i]->name;
        EXPECT_EQ(kept.gradients[i], again.gradients[i]) << name;
        EXPECT_GT(norm(kept.gradients[i]), 0.0) << name;
      }
    }
  }
}

TEST(Recompute, SameBitsAsKeeping) {
  StudentConfig student = tiny_student();
  student.trainable = {"*layers.1.self_attn.*", "*layers.3.mlp.*", "*embed_tokens.weight", "*lm_head.weight"};
  expect_same_bits_recomputed(*make_tiny_models(ctx(), student), tiny_batch(0, 5));
}

// Frozen last projections stay outside of what is computed again.
TEST(Recompute, SameBitsWithFrozenMlps) {
  StudentConfig student = tiny_student();
  student.trainable = {"*layers.1.self_attn.q_proj.*"};
  expect_same_bits_recomputed(*make_tiny_models(ctx(), student), tiny_batch(0, 5));
}

TEST(Recompute, SameBitsInSequentialBlocks) {
  StudentConfig student = tiny_student();
  student.trainable = {"*layers.1.mlp.*", "*layers.3.self_attn.o_proj.*", "*layers.1.post_attention_layernorm.weight"};
  expect_same_bits_recomputed(*make_tiny_llama(ctx(), student), tiny_batch({tiny_sample(2), tiny_sample(5)}));
}

// The hook hears of every parameter once, after its last use, with recomputation or without.
TEST(ParameterHook, EveryParameterOnceAndComplete) {
  const TinyModels& models = hybrid();
  const MicroBatch batch = tiny_batch(0, 4);
  std::vector<RecomputeSpec> specs = kRecomputed;
  specs.push_back({});
  for (const RecomputeSpec& recompute : specs) {
    Models m = models.models();
    m.recompute = recompute;
    const std::vector<std::vector<float>> expected = run_step(models, LossConfig(), batch, recompute).gradients;
    begin_poisoned(ctx(), models.store());
    std::map<std::string, std::vector<float>> heard;
    const SplicedRows rows = splice_for(m, batch);
    run_micro_batch(ctx(), m, LossConfig(), batch, rows, count_rows(rows, LossPositions::all), true, [&](Parameter& p) {
      EXPECT_FALSE(heard.contains(p.name)) << p.name;
      heard[p.name] = p.grad.to_floats(ctx());
    });
    ASSERT_EQ(heard.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(heard[models.store().parameters()[i]->name], expected[i]) << models.store().parameters()[i]->name;
    }
  }
}

TEST(TextOnly, AMicroBatchWithoutImages) {
  const MicroBatch batch = tiny_batch({tiny_sample(2), tiny_sample(5)});
  ASSERT_EQ(batch.n_images, 0);
  const Step step = run_step(hybrid(), LossConfig(), batch);
  EXPECT_GT(step.terms.logit, 0.0);
  EXPECT_GT(step.terms.layer, 0.0);
  EXPECT_FALSE(step.trace.vision_features.defined());
  for (size_t i = 0; i < step.gradients.size(); ++i) {
    const std::string& name = hybrid().store().parameters()[i]->name;
    EXPECT_EQ(all_zero(step.gradients[i]), name.starts_with("connector.")) << name;
  }
}

// Rows do not see each other: a mixed batch is the sum of its rows.
TEST(TextOnly, AMixedBatchIsTheSumOfItsRows) {
  const MicroBatch both = tiny_batch({tiny_sample(0), tiny_sample(2)});
  const Step whole = run_step(hybrid(), LossConfig(), both);
  const Step first = run_step(hybrid(), LossConfig(), tiny_batch({tiny_sample(0)}));
  const Step second = run_step(hybrid(), LossConfig(), tiny_batch({tiny_sample(2)}));
  expect_close(whole.terms.logit, 0.5 * (first.terms.logit + second.terms.logit), "logit loss");
  expect_close(whole.terms.layer, 0.5 * (first.terms.layer + second.terms.layer), "layer loss");
  for (size_t i = 0; i < whole.gradients.size(); ++i) {
    std::vector<double> sum;
    for (size_t k = 0; k < whole.gradients[i].size(); ++k) {
      sum.push_back(0.5 * (static_cast<double>(first.gradients[i][k]) + static_cast<double>(second.gradients[i][k])));
    }
    // D's gradient is a sum over all positions that nearly cancels: 1.2e-5 in a build of other instruction order.
    EXPECT_LE(relative_error(whole.gradients[i], sum), 5e-5) << hybrid().store().parameters()[i]->name;
  }
}

TEST(OneVisionPass, ATrainedTowerRunsOnItsOwn) {
  StudentConfig student = tiny_student();
  student.trainable = {"vision_tower.*patch_embedding.*"};
  const auto models = make_tiny_models(ctx(), student);
  Models m = models->models();
  m.vision_trained = true;
  const Step step = run_step(*models, LossConfig(), tiny_batch(0, 3), {}, m);
  const Step shared = run_step(hybrid(), LossConfig(), tiny_batch(0, 3));
  EXPECT_EQ(step.terms.logit, shared.terms.logit);  // the copies start as the teacher's
  for (size_t i = 0; i < step.gradients.size(); ++i) {
    EXPECT_FALSE(all_zero(step.gradients[i])) << models->store().parameters()[i]->name;
  }
}

TEST(WithoutTeacher, LabelsAlone) {
  Models m = hybrid().models();
  m.teacher = nullptr;
  LossConfig loss;
  loss.logit = LogitLossKind::none;
  loss.layer = LayerLossKind::none;
  loss.ce_weight = 1.0;
  const Step alone = run_step(hybrid(), loss, tiny_batch(0, 4), {}, m);
  const Step beside = run_step(hybrid(), loss, tiny_batch(0, 4));
  EXPECT_EQ(alone.terms.ce, beside.terms.ce);
  EXPECT_EQ(alone.terms.total, alone.terms.ce);
  EXPECT_EQ(alone.gradients, beside.gradients);
}

// In bf16 the pictures are rounded before they are sent, to what the tower's first layer would make of them.
TEST(UploadImages, AreOfTheTowersType) {
  const Rng rng{7, stream_of("pixels")};
  MicroBatch batch;
  batch.n_images = 2;
  batch.image_size = 3;
  for (uint64_t i = 0; i < 54; ++i) batch.images.push_back(static_cast<float>(rng.normal(i)));
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Vlm student;
    student.vision.emplace();
    student.vision->patch_weight.value = Tensor::zeros(ctx(), {1, 3, 2, 2}, dtype);
    Models m;
    m.student = &student;
    const Tensor images = upload_images(ctx(), m, batch);
    EXPECT_EQ(images.dtype(), dtype);
    EXPECT_EQ(images.shape(), (Shape{2, 3, 3, 3}));
    std::vector<float> expected = batch.images;
    if (dtype == DType::bf16) {
      for (float& x : expected) x = static_cast<float>(bf16(x));
    }
    EXPECT_EQ(images.to_floats(ctx()), expected);
    student.vision.reset();
    EXPECT_THROW(upload_images(ctx(), m, batch), Error);
  }
}

}  // namespace
}  // namespace matvlm::testing
