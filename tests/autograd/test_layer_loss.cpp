// layer_loss: row kernels against complex step, the op against double, exact zeros, errors; the same on the GPU.
#include "autograd/ops/layer_loss.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <tuple>

#include "autograd/ops/layer_loss_cpu.h"
#include "tests/support/op_check.h"

namespace matvlm {
namespace {

using matvlm::testing::convert;
using matvlm::testing::cpu;
using matvlm::testing::expect_within_rounding;
using matvlm::testing::Guarded;
using matvlm::testing::new_cuda;
using matvlm::testing::random_values;
using matvlm::testing::relative_error;
using matvlm::testing::round_bf16;
using Complex = std::complex<double>;

constexpr LayerKind kKinds[] = {LayerKind::l2, LayerKind::mse, LayerKind::cosine};
const char* kind_name(LayerKind kind) {
  constexpr const char* kNames[] = {"l2", "mse", "cosine"};
  return kNames[static_cast<int>(kind)];
}

// The formulas as they stand in the method, one row.
template <class S>
S textbook_loss(LayerKind kind, const S* s, const double* t, int64_t n) {
  S squares(0), st(0), ss(0);
  double tt = 0;
  for (int64_t i = 0; i < n; ++i) {
    squares += (s[i] - t[i]) * (s[i] - t[i]);
    st += s[i] * t[i];
    ss += s[i] * s[i];
    tt += t[i] * t[i];
  }
  if (kind == LayerKind::mse) return squares / static_cast<double>(n);
  if (kind == LayerKind::cosine) return S(1) - st / (scalar_sqrt(ss) * std::sqrt(tt));
  return scalar_sqrt(squares);
}

struct Case {
  LayerKind kind = LayerKind::l2;
  bool segment_norm = false;
  std::vector<int64_t> lengths = {7, 0, 30, 1};
  int64_t width = 80;
  double distance = 1.0;  // of student and teacher; values have size 1
  bool strided = false;
  int64_t tokens() const {
    int64_t n = 0;
    for (const int64_t l : lengths) n += l;
    return n;
  }
  std::string name() const {
    return cat(kind_name(kind), segment_norm ? " per sample" : "", " T ", tokens(), " D ", width, " distance ",
               distance, strided ? " strided" : "");
  }
};

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const LayerKind kind : kKinds) {
    for (const bool segment_norm : {false, true}) {
      if (segment_norm && kind != LayerKind::l2) continue;
      for (const int64_t width : {1, 3, 80, 128, 300, 2560}) out.push_back({kind, segment_norm, {7, 0, 30, 1}, width});
      out.push_back({kind, segment_norm, {300}, 80, 1e-2, true});
      out.push_back({kind, segment_norm, {1}, 2560, 1e-2});
      out.push_back({kind, segment_norm, {0, 0}, 80});
    }
  }
  return out;
}

constexpr double kScale = 1.25;

struct Values {
  std::vector<double> student, teacher;
  std::vector<float> row_weight, segment_weight;
};

Values make_values(const Case& c, DType dtype) {
  Values v;
  const int64_t n = c.tokens() * c.width;
  const auto base = random_values("layer teacher", n);
  const auto noise = random_values("layer noise", n, c.distance);
  std::vector<double> student(base.size());
  for (size_t i = 0; i < base.size(); ++i) student[i] = base[i] + noise[i];
  const auto round = [&](const std::vector<double>& x) {
    return dtype == DType::bf16 ? round_bf16(x) : convert<double>(convert<float>(x));
  };
  v.teacher = round(base);
  v.student = round(student);
  for (int64_t r = 0; r < c.tokens(); ++r) {
    v.row_weight.push_back(r % 4 == 2 ? 0.0F : 0.5F + 0.25F * static_cast<float>(r % 3));
  }
  for (size_t b = 0; b < c.lengths.size(); ++b) v.segment_weight.push_back(0.5F + static_cast<float>(b));
  return v;
}

// Total of a case by the formulas, scale included; S complex for its derivative.
template <class S>
S textbook_total(const Case& c, const Values& v, const std::vector<S>& student) {
  S total(0);
  int64_t r = 0;
  for (size_t b = 0; b < c.lengths.size(); ++b) {
    S squares(0);
    for (const int64_t end = r + c.lengths[b]; r < end; ++r) {
      const float w = v.row_weight[static_cast<size_t>(r)];
      if (w == 0) continue;
      const S loss = textbook_loss(c.kind, student.data() + r * c.width, v.teacher.data() + r * c.width, c.width);
      if (c.segment_norm) {
        squares += loss * loss;
      } else {
        total += S(kScale * w) * loss;
      }
    }
    if (c.segment_norm && real_part(squares) > 0) total += S(kScale * v.segment_weight[b]) * scalar_sqrt(squares);
  }
  return total;
}

// Gradient of textbook_total in double, from the row template.
std::vector<double> exact_gradient(const Case& c, const Values& v) {
  std::vector<float> coefficient = v.row_weight;
  if (c.segment_norm) {
    int64_t r = 0;
    for (size_t b = 0; b < c.lengths.size(); ++b) {
      const int64_t first = r;
      double squares = 0;
      for (const int64_t end = r + c.lengths[b]; r < end; ++r) {
        const double row =
            textbook_loss(LayerKind::l2, v.student.data() + r * c.width, v.teacher.data() + r * c.width, c.width);
        if (v.row_weight[static_cast<size_t>(r)] != 0) squares += row * row;
      }
      for (int64_t i = first; i < r; ++i) {
        float& w = coefficient[static_cast<size_t>(i)];
        if (w != 0) w = static_cast<float>(v.segment_weight[b] / std::sqrt(squares));
      }
    }
  }
  Guarded<double> grad(c.tokens() * c.width);
  LayerRows<double> a;
  a.rows = c.tokens();
  a.width = c.width;
  a.kind = c.kind;
  a.segment_norm = c.segment_norm;
  a.scale = kScale;
  a.student = v.student.data();
  a.teacher = v.teacher.data();
  a.student_stride = a.teacher_stride = c.width;
  a.coefficient = coefficient.data();
  a.grad = grad.data();
  layer_rows_cpu(a, static_cast<double*>(nullptr));
  grad.check("grad");
  return grad.values();
}

TEST(LayerRows, DoubleFollowsTheFormulas) {
  for (const LayerKind kind : kKinds) {
    for (const int64_t width : {1, 3, 80, 300}) {
      Case c;
      c.kind = kind;
      c.width = width;
      SCOPED_TRACE(c.name());
      const Values v = make_values(c, DType::f32);
      LayerRows<double> a;
      a.rows = c.tokens();
      a.width = width;
      a.kind = kind;
      a.student = v.student.data();
      a.teacher = v.teacher.data();
      a.student_stride = a.teacher_stride = width;
      a.coefficient = v.row_weight.data();
      Guarded<double> loss(c.tokens());
      layer_rows_cpu(a, loss.data());
      loss.check("loss");
      for (int64_t r = 0; r < c.tokens(); ++r) {
        const bool counted = v.row_weight[static_cast<size_t>(r)] != 0;
        const double expected =
            counted ? textbook_loss(kind, v.student.data() + r * width, v.teacher.data() + r * width, width) : 0.0;
        EXPECT_NEAR(loss.values()[static_cast<size_t>(r)], expected, 1e-13 * (1 + expected));
      }
      // One-dimensional cosines are constant: their derivative is 0 but for rounding.
      const std::vector<double> grad = exact_gradient(c, v);
      for (const uint64_t seed : {1, 2, 3}) {
        const auto direction = random_values("direction", c.tokens() * width, 1.0, seed);
        const double expected = testing::complex_step(
            [&](const std::vector<Complex>& z) { return textbook_total(c, v, z); }, v.student, direction);
        double found = 0;
        for (size_t i = 0; i < grad.size(); ++i) found += grad[i] * direction[i];
        EXPECT_NEAR(found, expected, 1e-12 * (1 + std::abs(expected)));
      }
    }
  }
}

// The template's own complex instance, in the per-sample form too.
TEST(LayerRows, ComplexStepOfTheTemplate) {
  for (const bool segment_norm : {false, true}) {
    for (const LayerKind kind : kKinds) {
      if (segment_norm && kind != LayerKind::l2) continue;
      Case c;
      c.kind = kind;
      const Values v = make_values(c, DType::f32);
      LayerRows<Complex> a;
      a.rows = c.tokens();
      a.width = c.width;
      a.kind = kind;
      a.segment_norm = segment_norm;
      a.student_stride = a.teacher_stride = c.width;
      a.coefficient = v.row_weight.data();
      const auto teacher = convert<Complex>(v.teacher);
      a.teacher = teacher.data();
      const auto direction = random_values("direction", c.tokens() * c.width);
      std::vector<Complex> z(v.student.size());
      for (size_t i = 0; i < z.size(); ++i) z[i] = {v.student[i], 1e-30 * direction[i]};
      a.student = z.data();
      std::vector<Complex> loss(static_cast<size_t>(c.tokens()));
      Guarded<Complex> grad(c.tokens() * c.width);
      a.grad = grad.data();
      layer_rows_cpu(a, loss.data());
      grad.check("grad");
      const std::vector<Complex> g = grad.values();
      double found = 0;
      for (size_t i = 0; i < g.size(); ++i) found += g[i].real() * direction[i];
      double expected = 0;
      for (size_t r = 0; r < loss.size(); ++r) {
        // In segment_norm the loss is |d|^2 and the gradient its half: the norm's derivative brings the 1/2.
        expected += v.row_weight[r] * loss[r].imag() / 1e-30 * (segment_norm ? 0.5 : 1.0);
      }
      EXPECT_NEAR(found, expected, 1e-12 * (1 + std::abs(expected))) << kind_name(kind);
    }
  }
}

struct Outcome {
  double loss = 0;
  double term = 0;
  std::vector<double> grad;
};

Tensor upload(Context& ctx, const std::vector<double>& values, const Case& c, DType dtype) {
  const Tensor packed = Tensor::from_floats(ctx, convert<float>(values), {c.tokens(), c.width}, dtype);
  if (!c.strided) return packed;
  const Tensor wide = Tensor::zeros(ctx, {c.tokens(), c.width + 8}, dtype);
  Tensor view = wide.slice_cols(8, c.width + 8);
  view.copy_from(ctx, packed);
  return view;
}

SeqlensPtr lengths_of(Context& ctx, const Case& c) {
  std::vector<int64_t> cu = {0};
  for (const int64_t l : c.lengths) cu.push_back(cu.back() + l);
  return make_seqlens(ctx, cu);
}

Outcome run_op(Context& ctx, const Case& c, const Values& v, DType dtype) {
  Graph g(ctx);
  const Var student = g.input(upload(ctx, v.student, c, dtype));
  const LayerLossResult result =
      layer_loss(g, {c.kind, c.segment_norm, kScale}, student, upload(ctx, v.teacher, c, dtype), v.row_weight,
                 v.segment_weight, lengths_of(ctx, c));
  Outcome out;
  out.loss = result.loss.value().to_floats(ctx).at(0);
  out.term = result.term.to_vector<double>(ctx).at(0);
  g.backward({result.loss});
  out.grad = convert<double>(student.grad().to_floats(ctx));
  return out;
}

// Sums are kept in double, so the loss is as good as its float32 copy and gradients as their rounding. A coefficient of
// a sample's norm is rounded to float32 on the way (6e-8).
void compare(Context& ctx, DType dtype) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name());
    const Values v = make_values(c, dtype);
    const double exact = textbook_total(c, v, v.student);
    const Outcome found = run_op(ctx, c, v, dtype);
    EXPECT_NEAR(found.term * kScale, exact, 1e-12 * (1 + exact));
    EXPECT_NEAR(found.loss, exact, 1e-7 * exact + 1e-12);
    if (c.kind == LayerKind::cosine && c.width == 1) {
      // A constant; its gradient is rounding alone.
      for (const double x : found.grad) EXPECT_NEAR(x, 0.0, 1e-12);
      continue;
    }
    expect_within_rounding(found.grad, exact_gradient(c, v), dtype, "grad", 1e-7);
  }
}

TEST(LayerLoss, FloatAgainstDouble) { compare(cpu(), DType::f32); }

void expect_exact_zeros(Context& ctx, DType dtype) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name());
    Values v = make_values(c, dtype);
    v.student = v.teacher;
    const Outcome out = run_op(ctx, c, v, dtype);
    EXPECT_EQ(out.term, 0.0);
    EXPECT_EQ(out.loss, 0.0);
    EXPECT_EQ(out.grad, std::vector<double>(v.student.size(), 0.0));
  }
}

TEST(LayerLoss, EqualTeacherGivesExactlyZero) { expect_exact_zeros(cpu(), DType::f32); }

void expect_safe_cosine(Context& ctx, DType dtype) {
  Case c;
  c.kind = LayerKind::cosine;
  c.lengths = {2};
  Values v = make_values(c, dtype);
  v.row_weight = {1.0F, 2.0F};
  std::fill_n(v.student.begin(), c.width, 0.0);
  std::fill(v.teacher.begin() + c.width, v.teacher.end(), 0.0);
  const Outcome out = run_op(ctx, c, v, dtype);
  EXPECT_EQ(out.term, 3.0);
  EXPECT_EQ(out.grad, std::vector<double>(v.student.size(), 0.0));
}

TEST(LayerLoss, CosineOfZeroVectors) { expect_safe_cosine(cpu(), DType::f32); }

// NaN in a counted row reaches the loss; in a row that is not counted it reaches neither loss nor gradient.
void expect_nan_handling(Context& ctx, DType dtype) {
  for (const LayerKind kind : kKinds) {
    for (const bool segment_norm : {false, true}) {
      if (segment_norm && kind != LayerKind::l2) continue;
      Case c;
      c.kind = kind;
      c.segment_norm = segment_norm;
      SCOPED_TRACE(c.name());
      Values v = make_values(c, dtype);
      v.student[static_cast<size_t>(2 * c.width)] = NAN;  // row 2 has weight 0
      const Outcome fine = run_op(ctx, c, v, dtype);
      EXPECT_TRUE(std::isfinite(fine.loss));
      EXPECT_TRUE(std::all_of(fine.grad.begin(), fine.grad.end(), [](double x) { return std::isfinite(x); }));
      v.student[0] = NAN;
      EXPECT_TRUE(std::isnan(run_op(ctx, c, v, dtype).loss));
    }
  }
}

TEST(LayerLoss, NanReachesTheLossOnlyWhereCounted) { expect_nan_handling(cpu(), DType::f32); }

TEST(LayerLoss, NothingRecordedWithoutNeed) {
  const Case c;
  const Values v = make_values(c, DType::f32);
  Graph g(cpu());
  const Var student = g.constant(upload(cpu(), v.student, c, DType::f32));
  const LayerLossResult result = layer_loss(g, {c.kind, false, kScale}, student,
                                            upload(cpu(), v.teacher, c, DType::f32), v.row_weight, {}, nullptr);
  EXPECT_EQ(g.size(), 0);
  EXPECT_NEAR(result.loss.value().to_floats(cpu()).at(0), textbook_total(c, v, v.student), 1e-4);
}

TEST(LayerLoss, ErrorsNameTheArgument) {
  const Case c;
  const Values v = make_values(c, DType::f32);
  const auto run = [&](LayerLossSpec spec, const Tensor& teacher, const std::vector<float>& rows, bool with_lens) {
    try {
      Graph g(cpu());
      layer_loss(g, spec, g.input(upload(cpu(), v.student, c, DType::f32)), teacher, rows, v.segment_weight,
                 with_lens ? lengths_of(cpu(), c) : nullptr);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  const Tensor teacher = upload(cpu(), v.teacher, c, DType::f32);
  EXPECT_EQ(run({}, teacher.slice_rows(0, 5), v.row_weight, true),
            "[layer_loss] teacher: found [5, 80], expected [38, 80]");
  EXPECT_EQ(run({}, teacher, {1.0F}, true), "[layer_loss] row_weight: found 1 values, expected 38");
  std::vector<float> bad = v.row_weight;
  bad[3] = INFINITY;
  EXPECT_EQ(run({}, teacher, bad, true), "[layer_loss] row_weight of row 3: found inf");
  EXPECT_EQ(run({LayerKind::mse, true, 1.0}, teacher, v.row_weight, true), "[layer_loss] segment_norm is for l2 only");
  EXPECT_EQ(run({LayerKind::l2, true, 1.0}, teacher, v.row_weight, false),
            "[layer_loss] segment_norm needs the boundaries of 38 rows");
  EXPECT_EQ(run({}, teacher, v.row_weight, true), "no error");
}

TEST(LayerLossCuda, Float32AgainstDouble) { compare(*new_cuda(), DType::f32); }
TEST(LayerLossCuda, Bfloat16AgainstDouble) { compare(*new_cuda(), DType::bf16); }
TEST(LayerLossCuda, EqualTeacherGivesExactlyZero) {
  const auto ctx = new_cuda();
  expect_exact_zeros(*ctx, DType::f32);
  expect_exact_zeros(*ctx, DType::bf16);
}
TEST(LayerLossCuda, CosineOfZeroVectors) {
  const auto ctx = new_cuda();
  expect_safe_cosine(*ctx, DType::f32);
  expect_safe_cosine(*ctx, DType::bf16);
}
TEST(LayerLossCuda, NanReachesTheLossOnlyWhereCounted) {
  const auto ctx = new_cuda();
  expect_nan_handling(*ctx, DType::f32);
  expect_nan_handling(*ctx, DType::bf16);
}
TEST(LayerLossCuda, SameBitsTwice) {
  const auto ctx = new_cuda();
  const auto bits = [](const Outcome& o) { return std::tuple(o.loss, o.term, o.grad); };
  for (const Case& c : cases()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(cat(c.name(), " ", dtype_name(dtype)));
      const Values v = make_values(c, dtype);
      EXPECT_EQ(bits(run_op(*ctx, c, v, dtype)), bits(run_op(*ctx, c, v, dtype)));
    }
  }
}

}  // namespace
}  // namespace matvlm
