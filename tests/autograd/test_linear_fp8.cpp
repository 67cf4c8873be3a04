// Linear layers whose frozen weight is held in fp8: values and gradients against double over the numbers that are
// stored, and against the layer without rounding.
#include <gtest/gtest.h>

#include "autograd/fp8_weight.h"
#include "autograd/ops/add.h"
#include "autograd/ops/linear.h"
#include "autograd/ops/quantize.h"
#include "core/allocator.h"
#include "core/gemm_fp8.h"
#include "tests/support/fp8.h"
#include "tests/support/op_check.h"

namespace matvlm::testing {
namespace {

struct Case {
  int64_t rows, in, out;
};
const std::vector<Case> kCases = {{1, 16, 48}, {65, 80, 144}, {300, 2560, 64}, {7, 48, 1152}};

struct Layer {
  Layer(Context& ctx, const Case& c, DType dtype)
      : x(Tensor::from_floats(ctx, convert<float>(random_values("x", c.rows * c.in)), {c.rows, c.in}, dtype)),
        dy(Tensor::from_floats(ctx, convert<float>(random_values("dy", c.rows * c.out, 1e-3)), {c.rows, c.out}, dtype)),
        w(Tensor::from_floats(ctx, convert<float>(random_values("w", c.out * c.in, 0.05)), {c.out, c.in}, dtype)),
        bias{Tensor::from_floats(ctx, convert<float>(random_values("bias", c.out)), {c.out}, dtype), nullptr},
        weight{{}, nullptr, std::make_shared<const Fp8Weight>(ctx, w)} {}
  Tensor x, dy, w;
  Weight bias, weight;
};

// a [m, k] b [n, k]^T.
std::vector<double> product(int64_t m, int64_t n, int64_t k, const std::vector<double>& a,
                            const std::vector<double>& b) {
  std::vector<double> c(static_cast<size_t>(m * n));
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t l = 0; l < k; ++l) sum += a[static_cast<size_t>(i * k + l)] * b[static_cast<size_t>(j * k + l)];
      c[static_cast<size_t>(i * n + j)] = sum;
    }
  }
  return c;
}

std::vector<double> transposed(int64_t rows, int64_t cols, const std::vector<double>& x) {
  std::vector<double> y(x.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) y[static_cast<size_t>(c * rows + r)] = x[static_cast<size_t>(r * cols + c)];
  }
  return y;
}

// dy as backward rounds it: the scales of W's rows are multiplied in first and divided out again here.
std::vector<double> rounded_gradient(Context& ctx, const Layer& l, int64_t out) {
  const Tensor& scale = l.weight.fp8->rows().scale;
  std::vector<double> dy = dequantized(ctx, quantize_rows(ctx, l.dy, scale));
  const std::vector<float> scales = scale.to_floats(ctx);
  for (size_t i = 0; i < dy.size(); ++i) dy[i] /= static_cast<double>(scales[i % static_cast<size_t>(out)]);
  return dy;
}

void check_layer(Context& ctx, DType dtype, double slack_forward, double slack_backward) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(cat(c.rows, "x", c.in, " -> ", c.out, " ", dtype_name(dtype)));
    const Layer l(ctx, c, dtype);
    const auto run = [&] {
      Graph g(ctx);
      const Var x = g.input(l.x);
      const Var y = linear(g, x, l.weight, l.bias);
      const std::vector<float> value = y.value().to_floats(ctx);
      g.backward(y, l.dy.clone(ctx));
      return std::pair(value, x.grad().to_floats(ctx));
    };
    const auto [y, dx] = run();
    const std::vector<double> w = dequantized(ctx, l.weight.fp8->rows());
    std::vector<double> expected = product(c.rows, c.out, c.in, dequantized(ctx, quantize_rows(ctx, l.x)), w);
    const std::vector<float> bias = l.bias.value.to_floats(ctx);
    for (size_t i = 0; i < expected.size(); ++i) {
      expected[i] += static_cast<double>(bias[i % static_cast<size_t>(c.out)]);
    }
    expect_within_rounding(y, expected, dtype, "y", slack_forward);
    // The gradient is that of the matrix that forward multiplied by: no rounding of W of its own.
    const std::vector<double> dx_expected =
        product(c.rows, c.in, c.out, rounded_gradient(ctx, l, c.out), transposed(c.out, c.in, w));
    expect_within_rounding(dx, dx_expected, dtype, "dx", slack_backward);

    // e4m3 is off by up to 2^-4 of an element, 2^-4 / sqrt(12) to twice that in the mean square; two operands and many
    // summands come to some 4 % of the norm. The bias makes y larger, not its error.
    const std::vector<double> plain = convert<double>(l.w.to_floats(ctx));
    const std::vector<double> exact_dx =
        product(c.rows, c.in, c.out, convert<double>(l.dy.to_floats(ctx)), transposed(c.out, c.in, plain));
    EXPECT_LE(relative_error(dx, exact_dx), 0.06);
    EXPECT_GE(relative_error(dx, exact_dx), 0.005) << "not rounded to fp8 at all";
    EXPECT_EQ(run(), std::pair(y, dx)) << "other bits at the second time";
  }
}

TEST(LinearFp8, AgainstDouble) { check_layer(cpu(), DType::f32, 2e-6, 2e-6); }

// Gradients of two uses add up, also in a column range of a wider value.
void check_accumulation(Context& ctx, DType dtype, double slack) {
  const Case c{33, 48, 64};
  const Layer l(ctx, c, dtype);
  const auto gradient = [&](bool view, int uses) {
    Graph g(ctx);
    const Tensor wide = Tensor::zeros(ctx, {c.rows, c.in + 32}, dtype);
    wide.slice_cols(16, 16 + c.in).copy_from(ctx, l.x);
    const Var leaf = g.input(view ? wide : l.x);
    const Var x = view ? g.slice_cols(leaf, 16, 16 + c.in) : leaf;
    Var y = linear(g, x, l.weight, l.bias);
    if (uses == 2) y = add(g, {y, linear(g, x, l.weight, l.bias)});
    g.backward(y, l.dy.clone(ctx));
    return (view ? leaf.grad().slice_cols(16, 16 + c.in) : leaf.grad()).to_floats(ctx);
  };
  const std::vector<float> once = gradient(false, 1);
  std::vector<double> twice;
  for (const float v : once) twice.push_back(2.0 * static_cast<double>(v));
  expect_within_rounding(gradient(false, 2), twice, dtype, "twice", slack);
  expect_within_rounding(gradient(true, 1), convert<double>(once), dtype, "view", slack);
  expect_within_rounding(gradient(true, 2), twice, dtype, "view, twice", slack);
}
TEST(LinearFp8, GradientsAccumulate) { check_accumulation(cpu(), DType::f32, 1e-6); }

// Products that share an input round it once; a route has no copy that would outlive the value.
TEST(LinearFp8, ASharedInputIsRoundedOnce) {
  const Layer l(cpu(), {33, 48, 64}, DType::f32);
  Graph g(cpu(), false);
  const Var x = g.constant(l.x);
  const Var same = x;
  EXPECT_FALSE(x.fp8().defined());
  linear(g, same, l.weight, {});
  const void* first = x.fp8().values.raw();
  linear(g, x, l.weight, l.bias);
  EXPECT_EQ(x.fp8().values.raw(), first);
}

// Parts that are rows of one matrix give the same as one by one: a row's scale is its own.
void check_joined(Context& ctx, DType dtype, double slack) {
  const Case c{33, 48, 96};
  const Layer l(ctx, c, dtype);
  JoinedLinear one, many;
  int64_t begin = 0;
  for (const int64_t width : {32, 48, 16}) {
    const Weight part{{}, nullptr, std::make_shared<const Fp8Weight>(*l.weight.fp8, begin, begin + width)};
    const Weight bias{l.bias.value.slice_rows(begin, begin + width), nullptr};
    EXPECT_EQ(part.fp8->shape(), (Shape{width, c.in}));
    one.parts.push_back({part, bias});
    many.parts.push_back({part, bias});
    begin += width;
  }
  one.fp8 = l.weight.fp8;
  one.bias = l.bias.value;
  const auto run = [&](const std::function<Var(Graph&, const Var&)>& layer) {
    Graph g(ctx);
    const Var x = g.input(l.x);
    const Var y = layer(g, x);
    const std::vector<float> value = y.value().to_floats(ctx);
    g.backward(y, l.dy.clone(ctx));
    return std::pair(value, x.grad().to_floats(ctx));
  };
  const auto [y, dx] = run([&](Graph& g, const Var& x) { return linear(g, x, l.weight, l.bias); });
  const auto whole = run([&](Graph& g, const Var& x) { return linear_joined(g, x, one); });
  const auto parts = run([&](Graph& g, const Var& x) { return linear_joined(g, x, many); });
  EXPECT_EQ(whole.first, y);
  EXPECT_EQ(whole.second, dx);
  expect_within_rounding(parts.first, convert<double>(y), dtype, "parts: y", slack);
  // Each part's columns of dy have a scale of their own: other roundings, of some 4 % each.
  EXPECT_LE(relative_error(parts.second, dx), 0.06);
}
TEST(LinearFp8, JoinedParts) { check_joined(cpu(), DType::f32, 1e-6); }

// What a frozen layer leaves for backward is its output alone; the second copy of the weight comes with the first
// gradient, and only then.
TEST(LinearFp8, MemoryIsOneByteAWeightUntilAGradientPasses) {
  Context& ctx = cpu();
  constexpr int64_t kSize = 256;
  const auto bytes = [&] { return ctx.allocator()->stats().current; };
  const Tensor w = Tensor::zeros(ctx, {kSize, kSize}, DType::f32);
  const int64_t start = bytes();
  const Weight weight{{}, nullptr, std::make_shared<const Fp8Weight>(ctx, w)};
  constexpr int64_t kCopy = kSize * kSize + kSize * 4;
  EXPECT_EQ(bytes() - start, kCopy);
  {
    Graph g(ctx);
    Var y = g.input(Tensor::zeros(ctx, {kSize, kSize}, DType::f32));
    const int64_t before = bytes();
    for (int i = 0; i < 4; ++i) y = linear(g, y, weight, {});
    EXPECT_EQ(bytes(), before);  // the last output in place of the input; neither inputs nor their roundings
    g.backward(y, Tensor::zeros(ctx, {kSize, kSize}, DType::f32));
  }
  EXPECT_EQ(bytes() - start, 2 * kCopy);
}

TEST(LinearFp8, WrongSizesAreErrors) {
  const auto message = [&](const std::function<void()>& f) {
    try {
      f();
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(message([] {
              const Fp8Weight w(cpu(), Tensor::zeros(cpu(), {24, 16}, DType::f32));
            }),
            "[fp8] weight: found [24, 16], expected a matrix whose sizes are multiples of 16");
  const Layer l(cpu(), {2, 48, 64}, DType::f32);
  Graph g(cpu());
  EXPECT_EQ(message([&] {
              linear(g, g.constant(Tensor::zeros(cpu(), {2, 32}, DType::f32)), l.weight, {});
            }),
            "[linear] weight: found [64, 48], expected [N, 32]");
}

// The bounds of the sums are explained in tests/core/test_gemm_fp8.cpp: forward sums in the tensor cores' accumulator.
TEST(LinearFp8Cuda, AgainstDouble) {
  const auto ctx = new_cuda();
  if (!fp8_obstacle(*ctx).empty()) GTEST_SKIP() << fp8_obstacle(*ctx);
  check_layer(*ctx, DType::bf16, 1.5e-2, 1e-3);
  check_layer(*ctx, DType::f32, 1.5e-2, 1e-3);
  check_accumulation(*ctx, DType::bf16, 1e-3);
  check_accumulation(*ctx, DType::f32, 1e-6);
  check_joined(*ctx, DType::bf16, 1.5e-2);
}

}  // namespace
}  // namespace matvlm::testing
