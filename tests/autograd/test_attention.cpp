// Attention on the CPU: against a direct sum, float against double, backward against complex step, the node.
#include <gtest/gtest.h>

#include <complex>

#include "autograd/ops/attention_rows.h"
#include "tests/autograd/attention_cases.h"

namespace matvlm {
namespace {

using namespace matvlm::testing;
using Complex = std::complex<double>;

// float32 against double: a logit of size up to ~5 is a sum of P products, so it is off by a few 2^-24 * 5, and with it
// the logarithm of a probability; sums over up to 300 keys add as much again. Largest seen: 5e-7. dq and dk contain the
// difference dp - delta, which cancels for rows of few keys: 1.4e-6 seen for two tokens.
constexpr double kFloatTolerance = 1e-6;
constexpr double kDifferenceTolerance = 3e-6;

class Attention : public ::testing::TestWithParam<AttentionCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, Attention, ::testing::ValuesIn(attention_cases()));

// softmax(scale q k^T) v by its definition, query by query.
std::vector<double> direct_attention(const AttentionCase& c, const AttentionValues& x) {
  const std::vector<int64_t> cu = c.cu();
  const int64_t p = c.head_dim;
  std::vector<double> out(x.q.size(), 0.0);
  const auto at = [](const std::vector<double>& m, int64_t i) { return m[static_cast<size_t>(i)]; };
  for (size_t b = 0; b + 1 < cu.size(); ++b) {
    for (int64_t i = cu[b]; i < cu[b + 1]; ++i) {
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t kv = h / (c.heads / c.kv_heads);
        std::vector<double> e;
        double sum = 0;
        for (int64_t j = cu[b]; j < (c.causal ? i + 1 : cu[b + 1]); ++j) {
          double logit = 0;
          for (int64_t d = 0; d < p; ++d) {
            logit += at(x.q, i * c.width() + h * p + d) * at(x.k, j * c.kv_width() + kv * p + d);
          }
          e.push_back(std::exp(logit * c.shape().scale));
          sum += e.back();
        }
        for (size_t j = 0; j < e.size(); ++j) {
          for (int64_t d = 0; d < p; ++d) {
            out[static_cast<size_t>(i * c.width() + h * p + d)] +=
                e[j] / sum * at(x.v, (cu[b] + static_cast<int64_t>(j)) * c.kv_width() + kv * p + d);
          }
        }
      }
    }
  }
  return out;
}

TEST_P(Attention, DoubleMatchesDirectSum) {
  const AttentionCase& c = GetParam();
  const AttentionValues x = attention_values(c, DType::f64);
  // Two orders of summation in double.
  EXPECT_LE(relative_error(raw_forward<double>(c, x.q, x.k, x.v), direct_attention(c, x)), 1e-13);
}

TEST_P(Attention, FloatMatchesDouble) {
  const AttentionCase& c = GetParam();
  const AttentionValues x = attention_values(c, DType::f32);
  const auto found = raw_gradients<float>(c, x);
  const auto exact = raw_gradients<double>(c, x);
  expect_float_close(found.out, exact.out, x, kFloatTolerance, "out");
  expect_float_close(found.dq, exact.dq, x, kDifferenceTolerance, "dq");
  expect_float_close(found.dk, exact.dk, x, kDifferenceTolerance, "dk");
  expect_float_close(found.dv, exact.dv, x, kFloatTolerance, "dv");
}

TEST_P(Attention, GradientMatchesComplexStep) {
  const AttentionCase& c = GetParam();
  const AttentionValues x = attention_values(c, DType::f64);
  const auto gradient = raw_gradients<double>(c, x);
  const auto compare = [&](const char* name, const std::vector<double>& at, const std::vector<double>& grad,
                           const std::function<std::vector<Complex>(const std::vector<Complex>&)>& forward) {
    const std::vector<double> direction = random_values(c.name + name + "direction", static_cast<int64_t>(at.size()));
    const double derivative = complex_step(
        [&](const std::vector<Complex>& z) {
          const std::vector<Complex> out = forward(z);
          Complex sum = 0;
          for (size_t i = 0; i < out.size(); ++i) sum += x.grad_out[i] * out[i];
          return sum;
        },
        at, direction);
    double found = 0;
    double scale = 0;
    for (size_t i = 0; i < grad.size(); ++i) {
      found += grad[i] * direction[i];
      scale += grad[i] * grad[i] * direction[i] * direction[i];
    }
    // The sum's terms have random signs: the root of their squares is its natural size, also where it cancels. The
    // second term stands in where the gradient is exactly 0.
    const double bound = 1e-12 * std::max(std::abs(derivative), std::sqrt(scale)) + 1e-15 * norm(x.grad_out);
    EXPECT_LE(std::abs(found - derivative), bound) << name << ": " << found << " against " << derivative;
  };
  const auto q = convert<Complex>(x.q);
  const auto k = convert<Complex>(x.k);
  const auto v = convert<Complex>(x.v);
  compare("q", x.q, gradient.dq, [&](const auto& z) { return raw_forward<Complex>(c, z, k, v); });
  compare("k", x.k, gradient.dk, [&](const auto& z) { return raw_forward<Complex>(c, q, z, v); });
  compare("v", x.v, gradient.dv, [&](const auto& z) { return raw_forward<Complex>(c, q, k, z); });
}

TEST_P(Attention, NodeEqualsRawOp) {
  const AttentionCase& c = GetParam();
  const AttentionValues x = attention_values(c, DType::f32);
  const auto raw = raw_gradients<float>(c, x);
  const auto node = node_gradients(cpu(), c, x, DType::f32);
  // Only strides differ, and with them the blocking that OpenBLAS chooses.
  expect_float_close(node.out, convert<double>(raw.out), x, kFloatTolerance, "out");
  expect_float_close(node.dq, convert<double>(raw.dq), x, kDifferenceTolerance, "dq");
  expect_float_close(node.dk, convert<double>(raw.dk), x, kDifferenceTolerance, "dk");
  expect_float_close(node.dv, convert<double>(raw.dv), x, kFloatTolerance, "dv");
}

TEST_P(Attention, SameBitsTwiceAndWithAnyNumberOfThreads) {
  const AttentionCase& c = GetParam();
  const AttentionValues x = attention_values(c, DType::f32);
  const int threads = oracle_threads();
  const auto first = node_gradients(cpu(), c, x, DType::f32);
  for (const int n : {threads, 1, 3}) {
    const std::unique_ptr<Context> ctx = make_cpu_context(n);
    const auto again = node_gradients(*ctx, c, x, DType::f32);
    EXPECT_EQ(first.out, again.out) << n;
    EXPECT_EQ(first.dq, again.dq) << n;
    EXPECT_EQ(first.dk, again.dk) << n;
    EXPECT_EQ(first.dv, again.dv) << n;
  }
  make_cpu_context(threads);  // the process's thread count as it was
}

TEST(AttentionNode, OnlyWantedGradientsAndAccumulation) {
  const AttentionCase c{"accumulate", {70, 3}, 4, 2, 16, true};
  const AttentionValues x = attention_values(c, DType::f32);
  const auto expected = node_gradients(cpu(), c, x, DType::f32);
  const SeqlensPtr lens = make_seqlens(cpu(), c.cu());
  Graph g(cpu());
  const Var q = g.input(Tensor::from(cpu(), convert<float>(x.q), {c.tokens(), c.width()}));
  const Var k = g.constant(Tensor::from(cpu(), convert<float>(x.k), {c.tokens(), c.kv_width()}));
  const Var v = g.input(Tensor::from(cpu(), convert<float>(x.v), {c.tokens(), c.kv_width()}));
  const Var out = attention(g, c.shape(), q, k, v, lens);
  // Gradients that are there already: the op has to add.
  g.add_grad(q, Tensor::from(cpu(), std::vector<float>(x.q.size(), 1.0F), q.value().shape()));
  g.backward(out, Tensor::from(cpu(), convert<float>(x.grad_out), out.value().shape()));
  EXPECT_FALSE(k.requires_grad());
  std::vector<double> dq(expected.dq.size());
  for (size_t i = 0; i < dq.size(); ++i) dq[i] = 1.0 + static_cast<double>(expected.dq[i]);
  EXPECT_LE(relative_error(q.grad().to_floats(cpu()), dq), kFloatTolerance);
  EXPECT_LE(relative_error(v.grad().to_floats(cpu()), expected.dv), kFloatTolerance);
}

// Logits up to +-1e4: float32 itself rounds them by up to 2^-24 * 1e4 = 6e-4, and a log-sum-exp as well, which changes
// a probability by that factor; where two logits are that close, outputs and gradients move by as much.
TEST(AttentionNode, LargeLogits) {
  const AttentionCase c{"large", {65, 40}, 3, 1, 64, true};
  const AttentionValues x = attention_values(c, DType::f32, 3000.0);
  const auto found = raw_gradients<float>(c, x);
  const auto exact = raw_gradients<double>(c, x);
  EXPECT_LE(relative_error(found.out, exact.out), 2e-3);
  EXPECT_LE(relative_error(found.dv, exact.dv), 2e-3);
  EXPECT_LE(relative_error(found.dq, exact.dq), 2e-3);
  EXPECT_LE(relative_error(found.dk, exact.dk), 2e-3);
}

TEST(AttentionNode, SingleKeyGivesItsValue) {
  const AttentionCase c{"single", {1, 1, 4}, 2, 2, 16, true};
  const AttentionValues x = attention_values(c, DType::f32, 1e4);
  const std::vector<float> out = raw_forward(c, convert<float>(x.q), convert<float>(x.k), convert<float>(x.v));
  for (const int64_t first_of_sequence : {0, 1, 2}) {
    for (int64_t d = 0; d < c.width(); ++d) {
      const auto i = static_cast<size_t>(first_of_sequence * c.width() + d);
      EXPECT_EQ(out[i], static_cast<float>(x.v[i]));
    }
  }
}

TEST(AttentionNode, NanIsNotHidden) {
  const AttentionCase c{"nan", {20}, 1, 1, 16, true};
  const AttentionValues x = attention_values(c, DType::f32);
  auto k = convert<float>(x.k);
  k[5 * 16] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> out = raw_forward(c, convert<float>(x.q), k, convert<float>(x.v));
  EXPECT_TRUE(std::isfinite(out[4 * 16]));
  EXPECT_TRUE(std::isnan(out[5 * 16]));
  EXPECT_TRUE(std::isnan(out[19 * 16]));
}

TEST(AttentionRows, ExpWithinTwoUlp) {
  // Down to the smallest normal number, in steps that hit all fractions.
  for (float x = 0.0F; x > -87.3F; x -= 0.00137F) {
    const double exact = std::exp(static_cast<double>(x));
    ASSERT_LE(std::abs(exp_nonpositive(x) - exact), exact * 0x1.0p-22) << x;
  }
  EXPECT_EQ(exp_nonpositive(0.0F), 1.0F);
  EXPECT_EQ(exp_nonpositive(1.0F), 1.0F);
  EXPECT_EQ(exp_nonpositive(-88.0F), 0.0F);
  EXPECT_EQ(exp_nonpositive(-std::numeric_limits<float>::infinity()), 0.0F);
  EXPECT_TRUE(std::isnan(exp_nonpositive(std::numeric_limits<float>::quiet_NaN())));
}

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(AttentionNode, Errors) {
  Graph g(cpu());
  const SeqlensPtr lens = make_seqlens(cpu(), {0, 3});
  const Var q = g.input(Tensor::zeros(cpu(), {3, 16}, DType::f32));
  const Var k = g.input(Tensor::zeros(cpu(), {3, 16}, DType::f32));
  const Var wide = g.input(Tensor::zeros(cpu(), {3, 24}, DType::f32));
  const Var half = g.input(Tensor::zeros(cpu(), {3, 16}, DType::bf16));
  const auto message = [&](const AttentionShape& shape, const Var& v) {
    return error_of([&] { attention(g, shape, q, k, v, lens); });
  };
  EXPECT_EQ(message({3, 2, 8, true, 1.0}, k), "[attention] heads: found 3, expected a multiple of the 2 key heads");
  EXPECT_EQ(message({0, 2, 8, true, 1.0}, k),
            "[attention] found 0 heads, 2 key heads, head width 8, expected positive numbers");
  EXPECT_EQ(message({2, 2, 8, true, 1.0}, wide), "[attention] v: found [3, 24], expected [3, 16]");
  EXPECT_EQ(message({2, 2, 8, true, 1.0}, half), "[attention] v: found bf16, expected f32");
  EXPECT_EQ(message({2, 2, 8, true, 1.0}, k),
            "[attention] q, k and v: found two at one address, expected three values");
}

// Gradient of a joined projection whose q and k are rotated: turned back by attention() or by a node of the rotation's
// own. start: of the gradient that is there before, none if 0.
std::vector<float> turned_gradient(Context& ctx, const AttentionCase& c, int64_t rotary_dims, DType dtype,
                                   bool by_attention, float start = 0) {
  const int64_t width = c.width();
  const int64_t kv = c.kv_width();
  const int64_t all = width + 2 * kv;
  const auto upload = [&](const char* name, int64_t cols) {
    return Tensor::from_floats(ctx, convert<float>(random_values(c.name + name, c.tokens() * cols)), {c.tokens(), cols},
                               dtype);
  };
  const SeqlensPtr lens = make_seqlens(ctx, c.cu());
  const Tensor positions = Tensor::from(ctx, positions_of(c), {c.tokens()});
  const int64_t heads = c.heads + c.kv_heads;
  Graph g(ctx);
  const Var x = g.input(upload("x", all));
  Var qkv = x;
  RotaryTurn turned;
  if (by_attention) {
    turned = turn_in_place(g, qkv, heads, c.head_dim, frequencies_of(rotary_dims), positions);
  } else {
    qkv = rotary_in_place(g, qkv, heads, c.head_dim, frequencies_of(rotary_dims), positions);
  }
  const Var out = attention(g, c.shape(), g.slice_cols(qkv, 0, width), g.slice_cols(qkv, width, width + kv),
                            g.slice_cols(qkv, width + kv, all), lens, turned);
  if (start != 0) {
    const std::vector<float> filled(static_cast<size_t>(c.tokens() * all), start);
    g.add_grad(x, Tensor::from_floats(ctx, filled, {c.tokens(), all}, dtype));
  }
  g.backward(out, upload("w", width));
  return x.grad().to_floats(ctx);
}

struct TurnedCase {
  AttentionCase attention;
  int64_t rotary_dims;
};

// Phi's rotation, whole heads, others; packed rows, lengths that are no multiples of tiles, grouped keys.
std::vector<TurnedCase> turned_cases() {
  return {
      {{"phi", {200, 3, 321}, 4, 4, 80, true}, 32},  {{"phi, grouped", {129, 64, 1}, 6, 2, 80, true}, 32},
      {{"72 of 80", {193}, 2, 1, 72, true}, 32},     {{"whole 64", {130, 70}, 4, 2, 64, true}, 64},
      {{"whole 96", {65, 150}, 2, 2, 96, true}, 96}, {{"whole 128", {140, 30}, 2, 1, 128, true}, 128},
      {{"20 of 80", {100, 40}, 2, 2, 80, true}, 20}, {{"narrow", {33, 20}, 3, 1, 16, true}, 8},
      {{"one token", {1}, 2, 2, 80, true}, 32},
  };
}

TEST(AttentionNode, TurnsGradientsBack) {
  for (const auto& [c, dims] : turned_cases()) {
    SCOPED_TRACE(c.name);
    const std::vector<float> by_node = turned_gradient(cpu(), c, dims, DType::f32, false);
    EXPECT_EQ(turned_gradient(cpu(), c, dims, DType::f32, true), by_node);
    const std::vector<float> added = turned_gradient(cpu(), c, dims, DType::f32, true, 1.0F);
    EXPECT_LE(relative_error(added, turned_gradient(cpu(), c, dims, DType::f32, false, 1.0F)), kFloatTolerance);
    EXPECT_GT(relative_error(added, by_node), 0.1);
  }
}

TEST(AttentionNode, TurnErrors) {
  Graph g(cpu());
  const auto input = [&] { return g.input(Tensor::zeros(cpu(), {3, 16}, DType::f32)); };
  const Var q = input(), k = input(), v = input();
  const auto message = [&](int64_t dims, int64_t tokens) {
    const RotaryTurn turned{frequencies_of(dims), Tensor::zeros(cpu(), {tokens}, DType::i32), {}};
    return error_of([&] { attention(g, {2, 2, 8, true, 1.0}, q, k, v, make_seqlens(cpu(), {0, 3}), turned); });
  };
  EXPECT_EQ(message(10, 3), "[attention] rotary dims: found 10, expected at most the head width 8");
  EXPECT_EQ(message(8, 2), "[attention] positions of the rotation: found [2], expected [3]");
}

// ---- CUDA ----

class AttentionCuda : public ::testing::TestWithParam<AttentionCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, AttentionCuda, ::testing::ValuesIn(attention_cases()));

// The kernels add up P products, and then the keys, one after the other in float32: sqrt(300) * 2^-24 = 1e-6.
constexpr double kCudaFloatTolerance = 2e-6;
constexpr double kCudaDifferenceTolerance = 4e-6;

TEST_P(AttentionCuda, FloatMatchesOracle) {
  const AttentionCase& c = GetParam();
  const std::unique_ptr<Context> ctx = new_cuda();
  const AttentionValues x = attention_values(c, DType::f32);
  const auto exact = raw_gradients<double>(c, x);
  const auto found = node_gradients(*ctx, c, x, DType::f32);
  expect_float_close(found.out, exact.out, x, kCudaFloatTolerance, "out");
  expect_float_close(found.dq, exact.dq, x, kCudaDifferenceTolerance, "dq");
  expect_float_close(found.dk, exact.dk, x, kCudaDifferenceTolerance, "dk");
  expect_float_close(found.dv, exact.dv, x, kCudaFloatTolerance, "dv");
}

// Flash-attention's rule: at most twice the error of the oracle that rounds to bf16 what has to be stored as bf16, the
// output (which backward reads) and the gradients; and what float32 adds between them.
TEST_P(AttentionCuda, Bf16WithinRounding) {
  const AttentionCase& c = GetParam();
  const std::unique_ptr<Context> ctx = new_cuda();
  const AttentionValues x = attention_values(c, DType::bf16);
  const auto exact = raw_gradients<double>(c, x);
  const auto rounded = raw_gradients<double>(c, x, true);
  const auto found = node_gradients(*ctx, c, x, DType::bf16);
  const auto compare = [&](const std::vector<float>& result, const std::vector<double>& expected,
                           const std::vector<double>& in_bf16, const char* what) {
    // Where the gradient is 0, the output of a single key is its v, exactly: nothing was rounded.
    const double rounding = is_zero_gradient(expected, x) ? 0 : relative_error(round_bf16(in_bf16), expected);
    expect_float_close(result, expected, x, 2 * rounding + kCudaDifferenceTolerance, what);
  };
  compare(found.out, exact.out, rounded.out, "out");
  compare(found.dq, exact.dq, rounded.dq, "dq");
  compare(found.dk, exact.dk, rounded.dk, "dk");
  compare(found.dv, exact.dv, rounded.dv, "dv");
}

TEST_P(AttentionCuda, SameBitsTwice) {
  const AttentionCase& c = GetParam();
  const std::unique_ptr<Context> ctx = new_cuda();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const AttentionValues x = attention_values(c, dtype);
    const auto first = node_gradients(*ctx, c, x, dtype);
    const auto again = node_gradients(*ctx, c, x, dtype);
    EXPECT_EQ(first.out, again.out);
    EXPECT_EQ(first.dq, again.dq);
    EXPECT_EQ(first.dk, again.dk);
    EXPECT_EQ(first.dv, again.dv);
  }
}

TEST(AttentionCudaNode, LargeLogits) {
  const std::unique_ptr<Context> ctx = new_cuda();
  const AttentionCase c{"large", {65, 40}, 3, 1, 64, true};
  const AttentionValues x = attention_values(c, DType::f32, 3000.0);
  const auto exact = raw_gradients<double>(c, x);
  const auto found = node_gradients(*ctx, c, x, DType::f32);
  for (const auto& [result, expected] : {std::pair{&found.out, &exact.out}, std::pair{&found.dq, &exact.dq},
                                         std::pair{&found.dk, &exact.dk}, std::pair{&found.dv, &exact.dv}}) {
    EXPECT_LE(relative_error(*result, *expected), 2e-3);  // as on the CPU
  }
}

// float32: the same kernels either way. bf16: rounded once where the kernels of a GPU turn back what they have not
// rounded yet, twice elsewhere: 2^-9 each.
TEST(AttentionCudaNode, TurnsGradientsBack) {
  const std::unique_ptr<Context> ctx = new_cuda();
  for (const auto& [c, dims] : turned_cases()) {
    SCOPED_TRACE(c.name);
    EXPECT_EQ(turned_gradient(*ctx, c, dims, DType::f32, true), turned_gradient(*ctx, c, dims, DType::f32, false));
    for (const float start : {0.0F, 1.0F}) {
      const std::vector<float> found = turned_gradient(*ctx, c, dims, DType::bf16, true, start);
      EXPECT_LE(relative_error(found, turned_gradient(*ctx, c, dims, DType::bf16, false, start)), 0x1p-8) << start;
      EXPECT_EQ(turned_gradient(*ctx, c, dims, DType::bf16, true, start), found) << "second run";
    }
  }
}

TEST(AttentionCudaNode, HeadWidthError) {
  const std::unique_ptr<Context> ctx = new_cuda();
  Graph g(*ctx);
  const Var q = g.constant(Tensor::zeros(*ctx, {2, 18}, DType::f32));
  EXPECT_EQ(error_of([&] {
              attention(g, {1, 1, 18, true, 1.0}, q, q, q, make_seqlens(*ctx, {0, 2}));
            }),
            "[attention] head width on a GPU: found 18, expected a multiple of 4 up to 128");
}

// A tensor in the middle of a larger one that starts as NaN, with room on all sides.
struct DeviceGuard {
  static constexpr int64_t kRoom = 5;
  Tensor whole, inner;
  DeviceGuard(Context& ctx, int64_t rows, int64_t cols, DType dtype)
      : whole(Tensor::empty(ctx, {rows + 2 * kRoom, cols + 2 * kRoom}, dtype)),
        inner(whole.slice_rows(kRoom, kRoom + rows).slice_cols(kRoom, kRoom + cols)) {
    ctx.fill_bytes(whole.raw(), 0xff, whole.numel() * dtype_size(dtype));
  }
  void check(Context& ctx, const std::string& what) const {
    const std::vector<float> values = whole.to_floats(ctx);
    for (int64_t i = 0; i < whole.dim(0); ++i) {
      for (int64_t j = 0; j < whole.dim(1); ++j) {
        const bool inside = i >= kRoom && i < whole.dim(0) - kRoom && j >= kRoom && j < whole.dim(1) - kRoom;
        const float value = values[static_cast<size_t>(i * whole.dim(1) + j)];
        ASSERT_EQ(std::isnan(value), !inside) << what << " at " << i << ", " << j;
      }
    }
  }
};

template <class T>
void check_guards(const AttentionCase& c) {
  const std::unique_ptr<Context> ctx = new_cuda();
  const AttentionValues x = attention_values(c, DType::bf16);
  const auto upload = [&](const std::vector<double>& values, int64_t width) {
    return Tensor::from_floats(*ctx, convert<float>(values), {c.tokens(), width}, kDType<T>);
  };
  const Tensor q = upload(x.q, c.width());
  const Tensor k = upload(x.k, c.kv_width());
  const Tensor v = upload(x.v, c.kv_width());
  const Tensor grad_out = upload(x.grad_out, c.width());
  const SeqlensPtr lens = make_seqlens(*ctx, c.cu());
  const DeviceGuard out(*ctx, c.tokens(), c.width(), kDType<T>), dq(*ctx, c.tokens(), c.width(), kDType<T>);
  const DeviceGuard dk(*ctx, c.tokens(), c.kv_width(), kDType<T>), dv(*ctx, c.tokens(), c.kv_width(), kDType<T>);
  // [H, T] are contiguous, so they are guarded as one row.
  const DeviceGuard lse(*ctx, 1, c.heads * c.tokens(), DType::f32), delta(*ctx, 1, c.heads * c.tokens(), DType::f32);
  const int64_t* cu = lens->device_cu.data<int64_t>();
  AttentionBackwardArgs<T, float> a;
  a.forward.shape = c.shape();
  a.forward.ranges = {lens->batch(), lens->longest, lens->longest, cu, cu + 1, cu, cu + 1};
  a.forward.tokens = c.tokens();
  a.forward.kv_rows = c.tokens();
  const auto set = [](auto*& pointer, int64_t& stride, const Tensor& t) {
    pointer = t.data<T>();
    stride = t.row_stride();
  };
  set(a.forward.q, a.forward.q_stride, q);
  set(a.forward.k, a.forward.k_stride, k);
  set(a.forward.v, a.forward.v_stride, v);
  set(a.forward.out, a.forward.out_stride, out.inner);
  set(a.grad_out, a.grad_out_stride, grad_out);
  set(a.dq, a.dq_stride, dq.inner);
  set(a.dk, a.dk_stride, dk.inner);
  set(a.dv, a.dv_stride, dv.inner);
  a.forward.lse = lse.inner.template data<float>();
  a.delta = delta.inner.template data<float>();
  attention_forward_cuda(*ctx, a.forward);
  attention_backward_cuda(*ctx, a);
  for (const auto& [guard, name] : {std::pair{&out, "out"}, std::pair{&lse, "lse"}, std::pair{&delta, "delta"},
                                    std::pair{&dq, "dq"}, std::pair{&dk, "dk"}, std::pair{&dv, "dv"}}) {
    guard->check(*ctx, c.name + " " + name);
  }
}

TEST_P(AttentionCuda, WritesNothingElse) {
  check_guards<float>(GetParam());
  check_guards<bf16>(GetParam());
}

}  // namespace
}  // namespace matvlm
