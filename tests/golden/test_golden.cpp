// The golden steps: every case directory under $MATVLM_GOLDEN (default tests/golden), sizes and switches from its
// case.json. Bounds are those of the cases' README: float32 against float64 on the CPU and on a GPU, bf16 on a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "autograd/ops/adamw.h"
#include "autograd/ops/attention_dnn.h"
#include "autograd/ops/head_loss.h"
#include "distill/update.h"
#include "tests/support/golden.h"
#include "tests/support/op_check.h"

namespace matvlm::testing {
namespace {

struct Bounds {
  double loss, hidden, gradient, after_step;
  bool by_cosine;  // gradients by cosine similarity
};
// case README: float32 bounds.
constexpr Bounds kFloat{1e-5, 1e-4, 2e-4, 1e-5, false};
// case README: bf16 bounds; hidden states and the step itself have none there.
constexpr Bounds kBf16{2e-2, 0, 0, 0, true};

double relative(double found, double expected) {
  return std::abs(found - expected) / (expected != 0 ? std::abs(expected) : 1.0);
}

double cosine(const std::vector<float>& a, const std::vector<float>& b) {
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ab += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    aa += static_cast<double>(a[i]) * static_cast<double>(a[i]);
    bb += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return ab / std::sqrt(aa * bb);
}

class GoldenStep {
 public:
  GoldenStep(Context& ctx, const std::string& dir, DType dtype, const Bounds& bounds)
      : ctx_(ctx), bounds_(bounds), golden_(load_golden(ctx, dir, dtype)) {
    models_ = golden_->models(dtype);
    rows_ = splice_for(models_, golden_->batch);
    counts_ = count_rows(rows_, LossPositions::all);
  }

  // Attention by cuDNN from here on; false where it does not have the case's head widths.
  bool use(const std::shared_ptr<DnnAttention>& dnn) {
    const ModelConfig& c = golden_->teacher_config;
    if (c.text.head_dim % 8 != 0 || (c.vision && c.vision->hidden / c.vision->heads % 8 != 0)) return false;
    set_attention_backend(golden_->teacher_model, dnn);
    set_attention_backend(golden_->student_model, dnn);
    return true;
  }
  void run(RecomputeSpec recompute) {
    models_.recompute = recompute;
    step_losses();
    gradients();
    if (!bounds_.by_cosine) update();
  }
  void menu() {
    const auto one = [&](const char* name, LogitLossKind kind, Reduction reduction) {
      LossConfig config = golden_->loss();
      config.logit = kind;
      config.layer = LayerLossKind::none;
      config.reduction = reduction;
      expect_loss(cat("menu.", name), forward(config).logit);
    };
    one("forward_kl", LogitLossKind::kl, Reduction::per_token);
    one("reverse_kl", LogitLossKind::reverse_kl, Reduction::per_token);
    one("jsd", LogitLossKind::jsd, Reduction::per_token);
    menu_argmax_ce();
    one("logit_l2_token", LogitLossKind::logit_l2, Reduction::per_token);
    one("logit_l2", LogitLossKind::logit_l2, Reduction::published);
    LossConfig config = golden_->loss();
    config.reduction = Reduction::per_token;
    expect_loss("menu.layer_token", forward(config).layer);
  }

 private:
  LossTerms forward(const LossConfig& config) {
    return run_micro_batch(ctx_, models_, config, golden_->batch, rows_, counts_, false);
  }

  double expected(const std::string& name, size_t i = 0) { return golden_->expected.read_floats(name)[i]; }

  // The target is the teacher's arg max, which rounding may move where its two greatest logits are nearly equal. Then
  // the loss is expected with that target: its own change is the difference of the student's logits there.
  void menu_argmax_ce() {
    LossConfig config = golden_->loss();
    config.logit = LogitLossKind::argmax_ce;
    config.layer = LayerLossKind::none;
    config.reduction = Reduction::per_token;
    StepTrace trace;
    const double found =
        run_micro_batch(ctx_, models_, config, golden_->batch, rows_, counts_, false, {}, &trace).logit;
    const Affine& head = golden_->teacher_model.text.head;
    const std::vector<int32_t> targets =
        argmax_rows(ctx_, head_logits(ctx_, trace.teacher_final, head.weight.value, head.bias.value));
    const std::vector<float> teacher = valid_rows(*golden_, "teacher.logits");
    const std::vector<float> student = valid_rows(*golden_, "student.logits");
    const size_t vocab = teacher.size() / targets.size();
    ASSERT_EQ(counts_.positions, static_cast<int64_t>(targets.size()));
    double moved = 0;
    for (size_t r = 0; r < targets.size(); ++r) {
      const float* of_teacher = teacher.data() + r * vocab;
      const auto target = static_cast<size_t>(targets[r]);
      const auto top = static_cast<size_t>(std::max_element(of_teacher, of_teacher + vocab) - of_teacher);
      const auto range = std::minmax_element(of_teacher, of_teacher + vocab);
      const double largest = std::max(std::abs(*range.first), std::abs(*range.second));
      EXPECT_LE(of_teacher[top] - of_teacher[target], 2 * bounds_.loss * largest) << "arg max of position " << r;
      moved += static_cast<double>(student[r * vocab + top]) - static_cast<double>(student[r * vocab + target]);
    }
    const double wanted = expected("menu.argmax_ce") + moved / static_cast<double>(targets.size());
    EXPECT_LE(relative(found, wanted), bounds_.loss) << "menu.argmax_ce found " << found << " expected " << wanted;
  }

  void expect_loss(const std::string& name, double found, size_t i = 0) {
    EXPECT_LE(relative(found, expected(name, i)), bounds_.loss)
        << name << " found " << found << " expected " << expected(name, i);
  }

  void step_losses() {
    StepTrace trace;
    const ParameterStore& store = golden_->student_weights.store();
    store.begin_update(ctx_, 1);
    const LossTerms terms =
        run_micro_batch(ctx_, models_, golden_->loss(), golden_->batch, rows_, counts_, true, {}, &trace);
    store.settle(ctx_, 0, store.parameters().size());
    expect_loss("loss.kl", terms.logit);
    expect_loss("loss.layer", terms.layer);
    expect_loss("loss.total", terms.total);
    expect_loss("loss.student_ce", terms.ce);
    for (size_t i = 0; i < terms.layer_each.size(); ++i) expect_loss("loss.layer_each", terms.layer_each[i], i);
    if (bounds_.hidden == 0) return;
    expect_features(trace);
    expect_hidden("teacher", trace.teacher_hidden, trace.teacher_final, golden_->teacher_model);
    expect_hidden("student", trace.student_hidden, trace.student_final, golden_->student_model);
  }

  // The feature of every image that a row uses, all patches or all but the first. A batch may have no image at all.
  void expect_features(const StepTrace& trace) {
    ASSERT_EQ(trace.vision_features.defined(), golden_->batch.n_images > 0) << "vision features of the batch";
    if (golden_->batch.n_images == 0) return;
    const VisionConfig& vision = *golden_->teacher_config.vision;
    const std::vector<float> found = trace.vision_features.to_floats(ctx_);
    const std::vector<float> all = golden_->expected.read_floats("vision.features");
    const int64_t first = vision.drop_first_patch ? 1 : 0;
    for (size_t b = 0; b < golden_->valid_lengths.size(); ++b) {
      const int64_t image = golden_->batch.rows.image_of_row[b];
      if (image < 0) continue;
      const int64_t begin = (image * vision.patches() + first) * vision.hidden;
      const int64_t size = vision.tokens() * vision.hidden;
      const std::vector<float> a(found.begin() + begin, found.begin() + begin + size);
      const std::vector<float> e(all.begin() + image * size, all.begin() + (image + 1) * size);
      EXPECT_LE(relative_error(a, e), bounds_.hidden) << "vision.features of image " << image;
    }
  }

  void expect_hidden(const std::string& who, const std::vector<Tensor>& hidden, const Tensor& final_hidden,
                     const Vlm& model) {
    ASSERT_EQ(hidden.size(), static_cast<size_t>(golden_->teacher_config.text.layers) + 1);
    for (size_t i = 0; i < hidden.size(); ++i) {
      const std::string name = cat(who, ".hidden.", i);
      EXPECT_LE(relative_error(hidden[i].to_floats(ctx_), valid_rows(*golden_, name)), bounds_.hidden) << name;
    }
    const Tensor logits = head_logits(ctx_, final_hidden, model.text.head.weight.value, model.text.head.bias.value);
    const std::string name = who + ".logits";
    EXPECT_LE(relative_error(logits.to_floats(ctx_), valid_rows(*golden_, name)), bounds_.hidden) << name;
  }

  void gradients() {
    double squares = 0;
    int64_t compared = 0;
    for (const auto& p : golden_->student_weights.store().parameters()) {
      const std::string name = "grad." + p->name;
      const std::vector<float> found = p->grad.to_floats(ctx_);
      const std::vector<float> wanted = golden_->expected.read_floats(name);
      for (const float x : found) squares += static_cast<double>(x) * static_cast<double>(x);
      ++compared;
      if (!bounds_.by_cosine) {
        EXPECT_LE(relative_error(found, wanted), bounds_.gradient) << name;
        continue;
      }
      const bool small = p->name.ends_with("A_log") || p->name.ends_with("dt_bias") || p->name.ends_with(".D");
      EXPECT_GE(cosine(found, wanted), small ? 0.97 : 0.99) << name;
    }
    EXPECT_EQ(compared, count_expected("grad."));
    if (!bounds_.by_cosine) {
      EXPECT_LE(relative(std::sqrt(squares), expected("grad_norm")), bounds_.gradient);
      EXPECT_LE(relative(grad_norm(ctx_, golden_->student_weights.store()), expected("grad_norm")), bounds_.gradient);
    }
  }

  int64_t count_expected(const std::string& prefix) {
    int64_t n = 0;
    for (const std::string& name : golden_->expected.names()) n += name.starts_with(prefix) ? 1 : 0;
    return n;
  }

  void update() {
    const ParameterStore& store = golden_->student_weights.store();
    apply_update(ctx_, store, golden_->optimizer, golden_->optimizer.lr, 1, grad_norm(ctx_, store));
    std::vector<float> found, wanted;
    for (const auto& p : store.parameters()) {
      const std::vector<float> value = p->master.to_floats(ctx_);
      const std::vector<float> want = golden_->expected.read_floats("after_step." + p->name);
      found.insert(found.end(), value.begin(), value.end());
      wanted.insert(wanted.end(), want.begin(), want.end());
    }
    EXPECT_LE(relative_error(found, wanted), bounds_.after_step) << "after_step of all trained tensors";
  }

  Context& ctx_;
  Bounds bounds_;
  std::unique_ptr<GoldenCase> golden_;
  Models models_;
  SplicedRows rows_;
  UpdateCounts counts_;
};

void run_all(Context& ctx, DType dtype, const Bounds& bounds) {
  for (const std::string& dir : golden_dirs()) {
    SCOPED_TRACE(dir);
    for (const Recompute what : {Recompute::none, Recompute::mlp, Recompute::mixers, Recompute::blocks}) {
      SCOPED_TRACE(cat("recompute mode ", static_cast<int>(what)));
      GoldenStep(ctx, dir, dtype, bounds).run({what});
    }
    GoldenStep(ctx, dir, dtype, bounds).menu();
  }
}

TEST(Golden, FloatOnCpu) { run_all(cpu(), DType::f32, kFloat); }

TEST(GoldenCuda, Float) { run_all(*new_cuda(), DType::f32, kFloat); }

TEST(GoldenCuda, Bf16) { run_all(*new_cuda(), DType::bf16, kBf16); }

TEST(GoldenCuda, Bf16ByCudnn) {
  const std::unique_ptr<Context> ctx = new_cuda();
  const std::shared_ptr<DnnAttention> dnn = make_dnn_attention(*ctx);
  int cases = 0;
  for (const std::string& dir : golden_dirs()) {
    SCOPED_TRACE(dir);
    for (const Recompute what : {Recompute::none, Recompute::blocks}) {
      GoldenStep step(*ctx, dir, DType::bf16, kBf16);
      if (!step.use(dnn)) continue;
      step.run({what});
      ++cases;
    }
  }
  EXPECT_GT(cases, 0);
}

}  // namespace
}  // namespace matvlm::testing
