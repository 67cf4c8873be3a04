// The linear layer and the column sums and norms behind it.
#include "autograd/ops/linear.h"
#include "autograd/ops/reduce.h"
#include "autograd/ops/reduce_cpu.h"
#include "core/allocator.h"
#include "core/gemm.h"
#include "tests/support/op_cases.h"

#include <omp.h>

namespace matvlm::testing {
namespace {

struct LinearCase {
  int64_t rows, in, out;
  bool biased = true;
  std::string name() const { return cat("linear ", rows, "x", in, " -> ", out, biased ? " + bias" : ""); }
  std::vector<OpInput> inputs() const {
    std::vector<OpInput> all = {random_input("x", {rows, in}), random_parameter("w", {out, in}, 0.1)};
    if (biased) all.push_back(random_parameter("bias", {out}));
    return all;
  }
  Shape output() const { return {rows, out}; }
  template <class T>
  std::vector<T> forward(const Values<T>& v) const {
    std::vector<T> y(static_cast<size_t>(rows * out), T(0));
    if (biased) {
      for (size_t i = 0; i < y.size(); ++i) y[i] = v.at("bias")[i % static_cast<size_t>(out)];
    }
    gemm_cpu<T>(false, true, rows, out, in, T(1), v.at("x").data(), in, v.at("w").data(), in, T(1), y.data(), out);
    return y;
  }
  Values<double> backward(const Values<double>& v, const std::vector<double>& dy) const {
    Values<double> grads;
    grads["x"].resize(static_cast<size_t>(rows * in));
    gemm_cpu<double>(false, false, rows, in, out, 1.0, dy.data(), out, v.at("w").data(), in, 0.0, grads["x"].data(),
                     in);
    grads["w"].resize(static_cast<size_t>(out * in));
    gemm_cpu<double>(true, false, out, in, rows, 1.0, dy.data(), out, v.at("x").data(), in, 0.0, grads["w"].data(), in);
    if (!biased) return grads;
    grads["bias"].resize(static_cast<size_t>(out));
    add_column_sums_cpu(rows, out, dy.data(), out, grads["bias"].data());
    return grads;
  }
  Var build(Graph& g, const std::map<std::string, Var>& x, const std::map<std::string, Weight>& w) const {
    return linear(g, x.at("x"), w.at("w"), biased ? w.at("bias") : Weight{});
  }
};

const std::vector<LinearCase> kCases = {{1, 20, 48},          {2, 48, 20, false}, {63, 72, 80},  {64, 80, 144},
                                        {65, 144, 72, false}, {300, 33, 65},      {7, 1151, 31}, {130, 64, 320}};

TEST(Linear, AgainstDoubleAndComplexStep) {
  for (const LinearCase& c : kCases) check_on_cpu(c);
}

// Layers side by side, as one product each (joined 0), as one with biases apart (1) and altogether (2): their outputs
// and gradients are those of single layers.
struct JoinedRun {
  std::vector<std::vector<float>> y, grads;
  std::vector<float> dx;
};

JoinedRun run_joined(Context& ctx, DType dtype, bool trained, bool biased, int joined, bool single) {
  constexpr int64_t kRows = 37, kIn = 48;
  const std::vector<int64_t> widths = {64, 16, 80};
  std::vector<OpInput> inputs;
  for (size_t i = 0; i < widths.size(); ++i) inputs.push_back(random_parameter(cat("w", i), {widths[i], kIn}, 0.1));
  for (size_t i = 0; i < widths.size(); ++i) {
    inputs.push_back(random_parameter(cat("b", i), {widths[i] - widths[i] % 64 + 64}));
  }
  const TestParameters parameters(ctx, dtype, inputs);
  std::map<std::string, Weight> weights = parameters.weights();
  const Tensor all_w = Tensor::empty(ctx, {160, kIn}, dtype);
  const Tensor all_b = Tensor::empty(ctx, {160}, dtype);
  JoinedLinear layer;
  int64_t begin = 0;
  for (size_t i = 0; i < widths.size(); ++i) {
    const int64_t end = begin + widths[i];
    Weight w = weights.at(cat("w", i));
    Weight b = weights.at(cat("b", i));
    all_w.slice_rows(begin, end).copy_from(ctx, w.value);
    all_b.slice_rows(begin, end).copy_from(ctx, b.value.slice_rows(0, widths[i]));
    if (!trained) w.param = nullptr;
    layer.parts.push_back({w, biased ? Weight{all_b.slice_rows(begin, end), nullptr} : Weight{}});
    begin = end;
  }
  if (joined > 0) layer.w = all_w;
  if (joined > 1 && biased) layer.bias = all_b;
  EXPECT_EQ(layer.width(), 160);

  Graph g(ctx);
  const Var x =
      g.input(Tensor::from_floats(ctx, convert<float>(random_values("joined x", kRows * kIn)), {kRows, kIn}, dtype));
  std::vector<Var> parts;
  const Var y = single ? Var() : linear_joined(g, x, layer);
  begin = 0;
  for (size_t i = 0; i < widths.size(); ++i) {
    parts.push_back(single ? linear(g, x, layer.parts[i].w, layer.parts[i].bias)
                           : g.slice_cols(y, begin, begin + widths[i]));
    begin += widths[i];
  }
  JoinedRun run;
  std::vector<Var> roots;
  for (size_t i = 0; i < parts.size(); ++i) {
    run.y.push_back(parts[i].value().to_floats(ctx));
    const Tensor dy = Tensor::from_floats(ctx, convert<float>(random_values(cat("dy", i), kRows * widths[i])),
                                          {kRows, widths[i]}, dtype);
    roots.push_back(g.node(Tensor::zeros(ctx, {1}, DType::f32), {parts[i]}, {},
                           [part = parts[i], dy](Graph& graph, const Tensor&) { graph.add_grad(part, dy); }));
  }
  g.backward(roots);
  run.dx = x.grad().to_floats(ctx);
  for (size_t i = 0; i < widths.size(); ++i) run.grads.push_back(weights.at(cat("w", i)).param->grad.to_floats(ctx));
  return run;
}

void expect_joined_as_single(Context& ctx, DType dtype) {
  for (const bool biased : {false, true}) {
    for (const bool trained : {false, true}) {
      const JoinedRun single = run_joined(ctx, dtype, trained, biased, 0, true);
      for (const int joined : {0, 1, 2}) {
        const JoinedRun run = run_joined(ctx, dtype, trained, biased, joined, false);
        const std::string what = cat(dtype_name(dtype), " trained ", trained, " biased ", biased, " joined ", joined);
        for (size_t i = 0; i < single.y.size(); ++i) {
          EXPECT_LE(relative_error(run.y[i], single.y[i]), dtype == DType::bf16 ? 1e-3 : 1e-6) << what;
          EXPECT_LE(relative_error(run.grads[i], single.grads[i]), 1e-6) << what;
        }
        // Three roundings to bf16 of single layers against one.
        EXPECT_LE(relative_error(run.dx, single.dx), dtype == DType::bf16 ? 5e-3 : 1e-6) << what;
      }
    }
  }
}

TEST(Linear, JoinedIsAsSingle) { expect_joined_as_single(cpu(), DType::f32); }
TEST(LinearCuda, JoinedIsAsSingle) {
  const auto ctx = new_cuda();
  expect_joined_as_single(*ctx, DType::f32);
  expect_joined_as_single(*ctx, DType::bf16);
}

TEST(Linear, JoinedErrors) {
  const auto weight = [](int64_t rows, int64_t cols) { return Weight{Tensor::zeros(cpu(), {rows, cols}, DType::f32)}; };
  const Weight bias{Tensor::zeros(cpu(), {2}, DType::f32)};
  Graph g(cpu());
  const Var x = g.constant(Tensor::zeros(cpu(), {4, 3}, DType::f32));
  const auto message = [&](const JoinedLinear& layer) -> std::string {
    try {
      linear_joined(g, x, layer);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_EQ(message({}), "[linear] a joined layer without parts");
  EXPECT_EQ(message({{{weight(2, 3), {}}, {weight(2, 4), {}}}, {}, {}}),
            "[linear] weight: found [2, 4], expected [N, 3]");
  EXPECT_EQ(message({{{weight(2, 3), bias}, {weight(2, 3), {}}}, {}, {}}), "[linear] found a bias for some parts only");
  EXPECT_EQ(message({{{weight(2, 3), {}}, {weight(2, 3), {}}}, Tensor::zeros(cpu(), {5, 3}, DType::f32), {}}),
            "[linear] joined weight: found [5, 3], expected [4, 3]");
}

// Of a chain of frozen products only what starts it is kept for backward; a trained weight keeps its input.
TEST(Linear, FrozenWeightKeepsNoInput) {
  Context& ctx = cpu();
  constexpr int64_t kSize = 256;  // 256 KiB a matrix
  const auto kept = [&](Parameter* param) {
    const Tensor identity = Tensor::zeros(ctx, {kSize, kSize}, DType::f32);
    Graph g(ctx);
    const Var x = g.input(Tensor::zeros(ctx, {kSize, kSize}, DType::f32));
    const int64_t before = ctx.allocator()->stats().current;
    Var y = x;
    for (int i = 0; i < 4; ++i) y = linear(g, y, {identity, param}, {});
    return ctx.allocator()->stats().current - before;
  };
  Parameter trained;
  trained.pending_uses = 0;
  constexpr int64_t kMatrix = kSize * kSize * 4;
  EXPECT_EQ(kept(nullptr), kMatrix);       // the result alone
  EXPECT_EQ(kept(&trained), 4 * kMatrix);  // and the inputs of all but the first
}

TEST(LinearCuda, AgainstOracle) {
  const auto ctx = new_cuda();
  for (const LinearCase& c : kCases) check_on_cuda(c, *ctx, 2e-6, 1e-4);
}

// Frozen: no gradient of the weights is kept anywhere, only x gets one; a frozen layer on a constant records nothing.
TEST(Linear, FrozenIsNotRecorded) {
  const Weight w{Tensor::from(cpu(), std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3}), nullptr};
  Graph g(cpu());
  linear(g, g.constant(Tensor::zeros(cpu(), {4, 3}, DType::f32)), w, {});
  EXPECT_EQ(g.size(), 0);
  const Var x = g.input(Tensor::zeros(cpu(), {1, 3}, DType::f32));
  const Var y = linear(g, x, w, {});
  EXPECT_EQ(g.size(), 1);
  g.backward(y, Tensor::from(cpu(), std::vector<float>{1, 10}, {1, 2}));
  EXPECT_EQ(x.grad().to_floats(cpu()), (std::vector<float>{41, 52, 63}));
}

TEST(Linear, LeadingDimensionsAreKept) {
  const Weight w{Tensor::zeros(cpu(), {5, 3}, DType::f32), nullptr};
  Graph g(cpu(), false);
  EXPECT_EQ(linear(g, g.constant(Tensor::zeros(cpu(), {2, 4, 3}, DType::f32)), w, {}).value().shape(),
            (Shape{2, 4, 5}));
}

TEST(Linear, WrongWeightIsAnError) {
  const Weight w{Tensor::zeros(cpu(), {5, 4}, DType::f32), nullptr};
  Graph g(cpu());
  try {
    linear(g, g.constant(Tensor::zeros(cpu(), {2, 3}, DType::f32)), w, {});
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "[linear] weight: found [5, 4], expected [N, 3]");
  }
}

double plain_sum_squares(const std::vector<float>& x) {
  double sum = 0;
  for (const float v : x) sum += static_cast<double>(v) * static_cast<double>(v);
  return sum;
}

const std::vector<int64_t> kLengths = {0, 1, 17, 16384, 16385, 65536, 65537, 300001};

TEST(SumSquares, AnyLength) {
  for (const int64_t n : kLengths) {
    const auto x = convert<float>(random_values("squares", n));
    const double exact = plain_sum_squares(x);
    EXPECT_NEAR(sum_squares(cpu(), Tensor::from(cpu(), x, {n})), exact, 1e-12 * exact) << n;
  }
}

TEST(SumSquares, NanPropagates) {
  std::vector<float> x(70000, 1.0F);
  x[69999] = std::nanf("");
  EXPECT_TRUE(std::isnan(sum_squares(cpu(), Tensor::from(cpu(), x, {70000}))));
}

TEST(Reduce, SameBitsForAnyNumberOfThreads) {
  const auto x = convert<float>(random_values("threads", 300 * 1151));
  const Tensor t = Tensor::from(cpu(), x, {300 * 1151});
  const int threads = omp_get_max_threads();
  std::vector<double> squares;
  std::vector<std::vector<float>> sums;
  for (const int n : {1, 2, 3}) {
    omp_set_num_threads(n);
    squares.push_back(sum_squares(cpu(), t));
    const Tensor dst = Tensor::zeros(cpu(), {1151}, DType::f32);
    add_column_sums(cpu(), t.reshape({300, 1151}), dst);
    sums.push_back(dst.to_floats(cpu()));
  }
  omp_set_num_threads(threads);
  EXPECT_EQ(squares[0], squares[1]);
  EXPECT_EQ(squares[0], squares[2]);
  EXPECT_EQ(sums[0], sums[1]);
  EXPECT_EQ(sums[0], sums[2]);
}

TEST(ReduceCuda, AgainstDouble) {
  const auto ctx = new_cuda();
  for (const int64_t n : kLengths) {
    const auto x = convert<float>(random_values("squares", n));
    const double exact = plain_sum_squares(x);
    const Tensor t = Tensor::from(*ctx, x, {n});
    const double found = sum_squares(*ctx, t);
    EXPECT_NEAR(found, exact, 1e-12 * exact) << n;
    EXPECT_EQ(found, sum_squares(*ctx, t)) << n;
  }
  for (const int64_t rows : {1, 2, 127, 129, 300, 40000}) {
    const OpInput input = random_input("columns", {rows, 33});
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Tensor src = widened(*ctx, input, dtype).slice_cols(kPad, kPad + 33);
      const Tensor dst = Tensor::zeros(*ctx, {33}, DType::f32);
      add_column_sums(*ctx, src, dst);
      std::vector<double> exact(33, 0.0);
      const std::vector<double> values =
          dtype == DType::bf16 ? round_bf16(input.values) : convert<double>(convert<float>(input.values));
      add_column_sums_cpu(rows, 33, values.data(), 33, exact.data());
      expect_within_rounding(dst.to_floats(*ctx), exact, DType::f32, cat("column sums of ", rows), 2e-6);
    }
  }
}

}  // namespace
}  // namespace matvlm::testing
