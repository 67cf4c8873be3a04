// The GELU MLP as one node and linear layers with a residual: against double, by complex step, against single ops;
// CUDA.
#include "autograd/ops/gelu_mlp.h"

#include "autograd/ops/activation.h"
#include "autograd/ops/activation_cpu.h"
#include "autograd/ops/add.h"
#include "autograd/ops/linear.h"
#include "autograd/ops/reduce_cpu.h"
#include "core/allocator.h"
#include "core/gemm.h"
#include "core/gemm_fused.h"
#include "tests/support/op_cases.h"

namespace matvlm::testing {
namespace {

// y = x w^T + b of vectors, rows x in -> rows x out.
template <class T>
std::vector<T> product(const std::vector<T>& x, const std::vector<T>& w, const std::vector<T>& b, int64_t rows,
                       int64_t in, int64_t out) {
  std::vector<T> y(static_cast<size_t>(rows * out));
  for (size_t i = 0; i < y.size(); ++i) y[i] = b[i % static_cast<size_t>(out)];
  gemm_cpu<T>(false, true, rows, out, in, T(1), x.data(), in, w.data(), in, T(1), y.data(), out);
  return y;
}

struct Gradients {
  std::vector<double> x, w, b;
};
Gradients product_gradients(const std::vector<double>& x, const std::vector<double>& w, const std::vector<double>& dy,
                            int64_t rows, int64_t in, int64_t out) {
  Gradients g;
  g.x.resize(static_cast<size_t>(rows * in));
  g.w.resize(static_cast<size_t>(out * in));
  g.b.resize(static_cast<size_t>(out));
  gemm_cpu<double>(false, false, rows, in, out, 1.0, dy.data(), out, w.data(), in, 0.0, g.x.data(), in);
  gemm_cpu<double>(true, false, out, in, rows, 1.0, dy.data(), out, x.data(), in, 0.0, g.w.data(), in);
  add_column_sums_cpu(rows, out, dy.data(), out, g.b.data());
  return g;
}

struct ResidualCase {
  int64_t rows, in, out;
  std::string name() const { return cat("residual ", rows, "x", in, " -> ", out); }
  std::vector<OpInput> inputs() const {
    return {random_input("x", {rows, in}), random_parameter("w", {out, in}, 0.1), random_parameter("bias", {out}),
            random_input("residual", {rows, out})};
  }
  Shape output() const { return {rows, out}; }
  template <class T>
  std::vector<T> forward(const Values<T>& v) const {
    std::vector<T> y = product(v.at("x"), v.at("w"), v.at("bias"), rows, in, out);
    for (size_t i = 0; i < y.size(); ++i) y[i] += v.at("residual")[i];
    return y;
  }
  Values<double> backward(const Values<double>& v, const std::vector<double>& dy) const {
    Gradients g = product_gradients(v.at("x"), v.at("w"), dy, rows, in, out);
    return {{"x", g.x}, {"w", g.w}, {"bias", g.b}, {"residual", dy}};
  }
  Var build(Graph& g, const std::map<std::string, Var>& x, const std::map<std::string, Weight>& w) const {
    return linear(g, x.at("x"), w.at("w"), w.at("bias"), x.at("residual"));
  }
};

struct MlpCase {
  int64_t rows, width, inner;
  std::string name() const { return cat("gelu mlp ", rows, "x", width, " inner ", inner); }
  std::vector<OpInput> inputs() const {
    return {random_input("x", {rows, width}),
            random_parameter("w1", {inner, width}, 1.0 / std::sqrt(static_cast<double>(width))),
            random_parameter("b1", {inner}, 0.3),
            random_parameter("w2", {width, inner}, 1.0 / std::sqrt(static_cast<double>(inner))),
            random_parameter("b2", {width}, 0.3),
            random_input("residual", {rows, width})};
  }
  Shape output() const { return {rows, width}; }
  template <class T>
  static std::vector<T> gelu(const std::vector<T>& x) {
    std::vector<T> y;
    for (const T& v : x) y.push_back(GeluTanh::value(v));
    return y;
  }
  template <class T>
  std::vector<T> forward(const Values<T>& v) const {
    const std::vector<T> inside = gelu(product(v.at("x"), v.at("w1"), v.at("b1"), rows, width, inner));
    std::vector<T> y = product(inside, v.at("w2"), v.at("b2"), rows, inner, width);
    for (size_t i = 0; i < y.size(); ++i) y[i] += v.at("residual")[i];
    return y;
  }
  Values<double> backward(const Values<double>& v, const std::vector<double>& dy) const {
    const std::vector<double> pre = product(v.at("x"), v.at("w1"), v.at("b1"), rows, width, inner);
    const Gradients second = product_gradients(gelu(pre), v.at("w2"), dy, rows, inner, width);
    std::vector<double> dpre = second.x;
    for (size_t i = 0; i < dpre.size(); ++i) dpre[i] *= GeluTanh::slope(pre[i]);
    const Gradients first = product_gradients(v.at("x"), v.at("w1"), dpre, rows, width, inner);
    return {{"x", first.x}, {"w1", first.w}, {"b1", first.b}, {"w2", second.w}, {"b2", second.b}, {"residual", dy}};
  }
  Var build(Graph& g, const std::map<std::string, Var>& x, const std::map<std::string, Weight>& w) const {
    return gelu_mlp(g, x.at("x"), {w.at("w1"), w.at("b1"), w.at("w2"), w.at("b2")}, x.at("residual"));
  }
};

const std::vector<ResidualCase> kResidual = {{1, 24, 48}, {65, 48, 20}, {300, 33, 65}, {130, 64, 320}};
const std::vector<MlpCase> kMlps = {{1, 16, 48}, {65, 48, 64}, {7, 33, 65}, {300, 64, 256}, {129, 72, 184}};

TEST(LinearResidual, AgainstDoubleAndComplexStep) {
  for (const ResidualCase& c : kResidual) check_on_cpu(c);
}
TEST(LinearResidualCuda, AgainstOracle) {
  const auto ctx = new_cuda();
  for (const ResidualCase& c : kResidual) check_on_cuda(c, *ctx, 2e-6, 1e-3);
}

TEST(GeluMlp, AgainstDoubleAndComplexStep) {
  for (const MlpCase& c : kMlps) check_on_cpu(c, 3e-6);
}
// bf16: what lies between the products is rounded there, too: each result is as far off as two roundings more.
TEST(GeluMlpCuda, AgainstOracle) {
  const auto ctx = new_cuda();
  for (const MlpCase& c : kMlps) check_on_cuda(c, *ctx, 5e-6, 4e-3);
}

// Frozen weights: value and gradients of x and residual are those of the single ops, and only the pre-activation is
// kept.
struct FrozenRun {
  std::vector<float> y, dx, dresidual;
  int64_t kept = 0;
};
FrozenRun run_frozen(Context& ctx, DType dtype, bool fused, bool recording, bool again = false) {
  const MlpCase c{256, 64, 512};
  std::map<std::string, Tensor> v;
  for (const OpInput& i : c.inputs()) v[i.name] = Tensor::from_floats(ctx, convert<float>(i.values), i.shape, dtype);
  const auto weight = [&](const char* name) { return Weight{v.at(name), nullptr}; };
  FrozenRun run;
  Graph g(ctx, recording);
  const Var x = g.input(v.at("x"));
  const Var residual = g.input(v.at("residual"));
  const int64_t before = ctx.allocator()->stats().current;
  const Var y =
      fused
          ? gelu_mlp(g, x, {weight("w1"), weight("b1"), weight("w2"), weight("b2")}, residual,
                     again ? Graph::Remake([&](Context&) { return std::vector<Tensor>{v.at("x")}; }) : Graph::Remake())
          : add(g, {residual, linear(g, activation(g, linear(g, x, weight("w1"), weight("b1")), Activation::gelu_tanh),
                                     weight("w2"), weight("b2"))});
  run.kept = ctx.allocator()->stats().current - before;
  run.y = y.value().to_floats(ctx);
  if (!recording) return run;
  g.backward(y, Tensor::from_floats(ctx, convert<float>(random_values("mlp dy", c.rows * c.width)), c.output(), dtype));
  run.dx = x.grad().to_floats(ctx);
  run.dresidual = residual.grad().to_floats(ctx);
  return run;
}

void expect_frozen_as_single(Context& ctx, DType dtype, double tolerance) {
  const FrozenRun fused = run_frozen(ctx, dtype, true, true);
  const FrozenRun single = run_frozen(ctx, dtype, false, true);
  EXPECT_LE(relative_error(fused.y, single.y), tolerance);
  EXPECT_LE(relative_error(fused.dx, single.dx), tolerance);
  EXPECT_EQ(fused.dresidual, single.dresidual);
  const int64_t result = 256 * 64 * dtype_size(dtype);
  EXPECT_EQ(fused.kept, result + 256 * 512 * dtype_size(dtype));
  // Made again in backward: the same bits, and nothing is kept.
  const FrozenRun again = run_frozen(ctx, dtype, true, true, true);
  EXPECT_EQ(again.y, fused.y);
  EXPECT_EQ(again.dx, fused.dx);
  EXPECT_EQ(again.dresidual, fused.dresidual);
  EXPECT_EQ(again.kept, result);
  const FrozenRun forward = run_frozen(ctx, dtype, true, false);
  EXPECT_LE(relative_error(forward.y, single.y), tolerance);
  EXPECT_EQ(forward.kept, result);
}

TEST(GeluMlp, FrozenAsSingleOps) { expect_frozen_as_single(cpu(), DType::f32, 1e-6); }
TEST(GeluMlpCuda, FrozenAsSingleOps) {
  const auto ctx = new_cuda();
  expect_frozen_as_single(*ctx, DType::f32, 1e-6);
  expect_frozen_as_single(*ctx, DType::bf16, 6e-3);
}

// The products with epilogues exist at the model's sizes: the step counts on them.
TEST(GemmFusedCuda, AlgorithmsExist) {
  const auto ctx = new_cuda();
  for (const auto& [width, inner] : std::vector<std::pair<int64_t, int64_t>>{{2560, 10240}, {1152, 4304}}) {
    const auto zeros = [&](Shape shape) { return Tensor::zeros(*ctx, std::move(shape), DType::bf16); };
    const Tensor x = zeros({1024, width}), w1 = zeros({inner, width}), w2 = zeros({width, inner});
    const Tensor inside = zeros({1024, inner}), pre = zeros({1024, inner});
    EXPECT_TRUE(fused_gelu(*ctx, x, w1, zeros({inner}), inside, {})) << width;
    EXPECT_TRUE(fused_gelu(*ctx, x, w1, zeros({inner}), inside, pre)) << width;
    EXPECT_TRUE(fused_gelu_gradient(*ctx, x, w2, pre, inside)) << width;
    EXPECT_TRUE(fused_residual(*ctx, inside, w2, zeros({width}), x, zeros({1024, width}))) << width;
    EXPECT_TRUE(fused_residual(*ctx, x, zeros({width, width}), {}, x, zeros({1024, width}))) << width;
  }
}

TEST(GeluMlp, Errors) {
  Graph g(cpu());
  const auto zeros = [](Shape shape) { return Tensor::zeros(cpu(), std::move(shape), DType::f32); };
  const Var x = g.constant(zeros({3, 4}));
  const auto message = [&](const GeluMlp& mlp, const Var& residual) -> std::string {
    try {
      gelu_mlp(g, x, mlp, residual);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  const Weight w1{zeros({8, 4}), nullptr};
  const Weight w2{zeros({4, 8}), nullptr};
  EXPECT_EQ(message({{zeros({8, 5}), nullptr}, {}, w2, {}}, {}), "[gelu_mlp] w1: found [8, 5], expected [I, 4]");
  EXPECT_EQ(message({w1, {}, w2, {}}, g.constant(zeros({3, 5}))), "[gelu_mlp] residual: found [3, 5], expected [3, 4]");
  EXPECT_EQ(message({w1, {}, {zeros({4, 7}), nullptr}, {}}, {}),
            "[gemm] A [3, 8] times B [4, 7]^T does not give C [3, 4]");
}

}  // namespace
}  // namespace matvlm::testing
