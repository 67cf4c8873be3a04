// The whole of head_loss against double: every kind, tiles, exact zeros, bounds on memory, errors; the same on the GPU.
#include "autograd/ops/head_loss.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <tuple>

#include "core/allocator.h"
#include "tests/autograd/head_loss_cases.h"

namespace matvlm {
namespace {

using namespace head_loss_cases;
using matvlm::testing::cpu;
using matvlm::testing::expect_within_rounding;
using matvlm::testing::new_cuda;
using matvlm::testing::relative_error;

void expect_close(double found, double expected, double bound, const std::string& what) {
  EXPECT_NEAR(found, expected, bound * std::abs(expected)) << what;
}

// Float32: sums of 24 to 1000 products. bf16: the logits are float32 of exact products; the gradients of the logits are
// rounded to bf16 (2^-9 relative each, which the products average), and dhidden once more.
void compare(Context& ctx, const std::vector<Case>& cases, DType dtype) {
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const Values v = make_values(c, dtype);
    const Outcome exact = oracle(c, v);
    const Outcome found = run_op(ctx, c, v, dtype);
    const double bound = dtype == DType::f32 ? 2e-6 : 1e-5;
    expect_close(found.loss, exact.loss, bound, "loss");
    expect_close(found.logit_term, exact.logit_term, bound, "logit_term");
    expect_close(found.ce_term, exact.ce_term, bound, "ce_term");
    EXPECT_EQ(found.counts, exact.counts);
    EXPECT_EQ(found.dweight.size(), exact.dweight.size());
    const double ulp = dtype == DType::f32 ? 5e-6 : 0x1.0p-9;
    expect_within_rounding(found.dhidden, exact.dhidden, dtype, "dhidden", ulp);
    // Parameter gradients start at 1 in float32: 1 ulp of that is 1e-7, of values of about 0.01.
    const double parameter_bound = dtype == DType::f32 ? 2e-5 : 0x1.0p-8;
    EXPECT_LE(relative_error(found.dweight, exact.dweight), parameter_bound);
    EXPECT_LE(relative_error(found.dbias, exact.dbias), parameter_bound);
  }
}

TEST(HeadLoss, KernelCasesAgainstDouble) {
  compare(cpu(), kernel_cases(kPortableVocabs), DType::f32);
  compare(cpu(), kernel_cases(kClusterVocabs), DType::f32);
}
TEST(HeadLoss, FloatAgainstDouble) { compare(cpu(), cases(), DType::f32); }

void expect_exact_zeros(Context& ctx, DType dtype) {
  for (const LogitKind kind : {LogitKind::kl, LogitKind::reverse_kl, LogitKind::jsd, LogitKind::logit_l2}) {
    for (const double tau : {0.5, 1.0, 2.0}) {
      for (const int64_t scratch : {50000LL, 64LL << 20}) {
        for (const bool segment_norm : {false, true}) {
          if (segment_norm && kind != LogitKind::logit_l2) continue;
          Case c;
          c.kind = kind;
          c.tau = tau;
          c.vocab = 1000;
          c.scratch_bytes = scratch;
          c.segment_norm = segment_norm;
          SCOPED_TRACE(cat(kind_name(kind), " T ", tau, " scratch ", scratch));
          const Values v = make_values(c, dtype);
          Graph g(ctx);
          HeadLossInputs in = make_inputs(ctx, c, v, dtype);
          in.student_hidden = g.input(upload(ctx, v.student, {c.tokens(), c.width}, dtype, true));
          in.teacher_hidden = upload(ctx, v.student, {c.tokens(), c.width}, dtype);
          in.teacher_weight = in.student_weight.value;
          in.teacher_bias = in.student_bias.value;
          const HeadLossResult result = head_loss(g, make_spec(c), in);
          EXPECT_EQ(result.logit_term.to_vector<double>(ctx).at(0), 0.0);
          EXPECT_EQ(result.loss.value().to_floats(ctx).at(0), 0.0F);
          const auto counts = result.counts.to_vector<double>(ctx);
          EXPECT_GT(counts[kCountLogitRows], 0);
          EXPECT_EQ(counts[kCountAgreement], counts[kCountLogitRows]);
          g.backward({result.loss});
          const auto grad = in.student_hidden.grad().to_floats(ctx);
          EXPECT_EQ(std::count(grad.begin(), grad.end(), 0.0F), c.tokens() * c.width);
        }
      }
    }
  }
}

TEST(HeadLoss, EqualTeacherGivesExactlyZero) { expect_exact_zeros(cpu(), DType::f32); }

// Tiles are a matter of memory, not of results.
void expect_tiles_agree(Context& ctx, DType dtype, double bound) {
  for (const LogitKind kind : kKinds) {
    Case c;
    c.kind = kind;
    c.ce = true;
    c.trained_head = true;
    c.lengths = {40, 0, 61};
    c.vocab = 1000;
    const Values v = make_values(c, dtype);
    const Outcome whole = run_op(ctx, c, v, dtype);
    for (const int64_t scratch : {1LL, 30000LL, 200000LL, 400000LL}) {
      SCOPED_TRACE(cat(kind_name(kind), " scratch ", scratch));
      c.scratch_bytes = scratch;
      const Outcome tiles = run_op(ctx, c, v, dtype);
      expect_close(tiles.loss, whole.loss, 1e-6, "loss");
      EXPECT_EQ(tiles.counts, whole.counts);
      EXPECT_LE(relative_error(tiles.dhidden, whole.dhidden), bound);
      EXPECT_LE(relative_error(tiles.dweight, whole.dweight), bound);
      EXPECT_LE(relative_error(tiles.dbias, whole.dbias), bound);
    }
  }
}

TEST(HeadLoss, TilesDoNotChangeTheResult) { expect_tiles_agree(cpu(), DType::f32, 2e-5); }

void expect_bounded_memory(Context& ctx, DType dtype) {
  Case c;
  c.ce = true;
  c.lengths = {1000};
  c.width = 32;
  c.teacher_width = 32;
  c.vocab = 4000;
  c.scratch_bytes = 1 << 20;  // 32 MB would be needed for all logits of both
  const Values v = make_values(c, dtype);
  for (const bool trained : {false, true}) {
    Graph g(ctx);
    HeadLossInputs in = make_inputs(ctx, c, v, dtype);
    in.student_hidden = g.input(upload(ctx, v.student, {c.tokens(), c.width}, dtype));
    ParameterStore store;
    if (trained) train_head(ctx, store, in, dtype);
    const int64_t before = ctx.allocator()->stats().current;
    ctx.allocator()->reset_peak();
    const HeadLossResult result = head_loss(g, make_spec(c), in);
    g.backward({result.loss});
    // Besides the tiles: dhidden, eleven numbers a row, the bias in float32 (twice); size classes round up.
    const int64_t rest = c.tokens() * (c.width * 4 + 48) + 2 * c.vocab * 4;
    EXPECT_LE(ctx.allocator()->stats().peak - before, 2 * (c.scratch_bytes + rest)) << (trained ? "trained" : "frozen");
  }
}

TEST(HeadLoss, MemoryStaysBounded) { expect_bounded_memory(*make_cpu_context(0), DType::f32); }

TEST(HeadLoss, NothingCountedAndNothingRecorded) {
  Case c;
  c.ce = true;
  Values v = make_values(c, DType::f32);
  const Outcome exact = oracle(c, v);
  {
    Graph g(cpu(), false);
    HeadLossInputs in = make_inputs(cpu(), c, v, DType::f32);
    in.student_hidden = g.input(upload(cpu(), v.student, {c.tokens(), c.width}, DType::f32));
    const HeadLossResult result = head_loss(g, make_spec(c), in);
    EXPECT_FALSE(result.loss.requires_grad());
    EXPECT_EQ(g.size(), 0);
    expect_close(result.loss.value().to_floats(cpu()).at(0), exact.loss, 2e-6, "loss");
  }
  std::fill(v.logit_weight.begin(), v.logit_weight.end(), 0.0F);
  std::fill(v.ce_weight.begin(), v.ce_weight.end(), 0.0F);
  for (const bool trained : {false, true}) {
    c.trained_head = trained;
    const Outcome none = run_op(cpu(), c, v, DType::f32);
    EXPECT_EQ(none.loss, 0.0);
    EXPECT_EQ(none.counts, std::vector<double>(kHeadCounts, 0.0));
    EXPECT_EQ(none.dhidden, std::vector<double>(v.student.size(), 0.0));
    EXPECT_EQ(none.dweight, std::vector<double>(none.dweight.size(), 0.0));
  }
}

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(HeadLoss, ErrorsNameTheArgument) {
  Case c;
  c.ce = true;
  const Values v = make_values(c, DType::f32);
  const auto run = [&](const std::function<void(HeadLossSpec&, HeadLossInputs&)>& spoil) {
    return message_of([&] {
      Graph g(cpu());
      HeadLossInputs in = make_inputs(cpu(), c, v, DType::f32);
      in.student_hidden = g.input(upload(cpu(), v.student, {c.tokens(), c.width}, DType::f32));
      HeadLossSpec spec = make_spec(c);
      spoil(spec, in);
      head_loss(g, spec, in);
    });
  };
  EXPECT_EQ(run([](HeadLossSpec&, HeadLossInputs& in) { in.ce_target[1] = 384; }),
            "[head_loss] ce_target of row 1: found 384, expected 0 to 383");
  EXPECT_EQ(run([](HeadLossSpec&, HeadLossInputs& in) { in.ce_target[1] = -100; }),
            "[head_loss] ce_target of row 1: found -100, expected 0 to 383");
  EXPECT_EQ(run([](HeadLossSpec&, HeadLossInputs& in) { in.logit_weight.pop_back(); }),
            "[head_loss] logit_weight: found 33 values, expected 34");
  EXPECT_EQ(run([](HeadLossSpec&, HeadLossInputs& in) { in.logit_weight[2] = NAN; }),
            "[head_loss] logit_weight of row 2: found nan");
  EXPECT_EQ(run([](HeadLossSpec& spec, HeadLossInputs&) { spec.temperature = 0; }),
            "[head_loss] temperature: found 0, expected more than 0");
  EXPECT_EQ(run([](HeadLossSpec& spec, HeadLossInputs&) { spec.segment_norm = true; }),
            "[head_loss] segment_norm is for logit_l2 only");
  EXPECT_EQ(run([](HeadLossSpec&, HeadLossInputs& in) { in.teacher_hidden = in.teacher_hidden.slice_rows(0, 3); }),
            "[head_loss] teacher: found 3 rows and 384 tokens, expected 34 and 384");
  EXPECT_EQ(run([](HeadLossSpec&, HeadLossInputs& in) {
              in.student_weight.value = in.student_weight.value.slice_cols(0, 5);
            }),
            "[head_loss] student_weight: found [384, 5], expected [V, 24]");
  EXPECT_EQ(run([](HeadLossSpec&, HeadLossInputs&) {}), "no error");
}

void check_generation(Context& ctx, DType dtype) {
  Case c;
  c.vocab = 1000;
  const Values v = make_values(c, dtype);
  const auto exact = logits_of(v.student, v.weight, v.bias, c.tokens(), c.width, c.vocab);
  const Tensor logits =
      head_logits(ctx, upload(ctx, v.student, {c.tokens(), c.width}, dtype),
                  upload(ctx, v.weight, {c.vocab, c.width}, dtype), upload(ctx, v.bias, {c.vocab}, dtype));
  EXPECT_EQ(logits.shape(), (Shape{c.tokens(), c.vocab}));
  EXPECT_LE(relative_error(logits.to_floats(ctx), exact), 1e-6);
  const std::vector<int32_t> found = argmax_rows(ctx, logits.slice_cols(100, 900));
  ASSERT_EQ(static_cast<int64_t>(found.size()), c.tokens());
  for (int64_t r = 0; r < c.tokens(); ++r) {
    EXPECT_EQ(found[static_cast<size_t>(r)], argmax_row(exact.data() + r * c.vocab + 100, 800));
  }
}

TEST(HeadLogits, LogitsAndArgmax) { check_generation(cpu(), DType::f32); }

// --- GPU

TEST(HeadLossCuda, Float32AgainstDouble) { compare(*new_cuda(), cases(), DType::f32); }
TEST(HeadLossCuda, Bfloat16AgainstDouble) { compare(*new_cuda(), cases(), DType::bf16); }
// What the sanitizer's slow tools are given: of a GPU without clusters, both are the portable kernel.
TEST(HeadLossCuda, EveryKernelPortable) {
  const auto ctx = new_cuda();
  for (const DType dtype : {DType::f32, DType::bf16}) compare(*ctx, kernel_cases(kPortableVocabs), dtype);
}
TEST(HeadLossCuda, EveryKernelOfClusters) {
  const auto ctx = new_cuda();
  for (const DType dtype : {DType::f32, DType::bf16}) compare(*ctx, kernel_cases(kClusterVocabs), dtype);
}

TEST(HeadLossCuda, EqualTeacherGivesExactlyZero) {
  const auto ctx = new_cuda();
  expect_exact_zeros(*ctx, DType::f32);
  expect_exact_zeros(*ctx, DType::bf16);
}

TEST(HeadLossCuda, SameBitsTwice) {
  const auto ctx = new_cuda();
  const auto bits = [](const Outcome& o) {
    return std::tuple(o.loss, o.logit_term, o.ce_term, o.counts, o.dhidden, o.dweight, o.dbias);
  };
  for (const Case& c : cases()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(cat(c.name, " ", dtype_name(dtype)));
      const Values v = make_values(c, dtype);
      EXPECT_EQ(bits(run_op(*ctx, c, v, dtype)), bits(run_op(*ctx, c, v, dtype)));
    }
  }
}

TEST(HeadLossCuda, TilesDoNotChangeTheResult) {
  const auto ctx = new_cuda();
  expect_tiles_agree(*ctx, DType::f32, 2e-5);
  expect_tiles_agree(*ctx, DType::bf16, 0x1.0p-7);  // sums in another order may round to the neighbour
}

TEST(HeadLossCuda, MemoryStaysBounded) {
  const auto ctx = new_cuda();
  expect_bounded_memory(*ctx, DType::f32);
  expect_bounded_memory(*ctx, DType::bf16);
}

TEST(HeadLossCuda, LogitsAndArgmax) {
  const auto ctx = new_cuda();
  check_generation(*ctx, DType::f32);
  check_generation(*ctx, DType::bf16);
}

}  // namespace
}  // namespace matvlm
