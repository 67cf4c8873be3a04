// The hand-written product with GELU's gradient: against double, with strides, refusals, the same bits twice.
#include "autograd/ops/gelu_gradient.h"

#include <cmath>

#include "autograd/ops/activation_cpu.h"
#include "core/gemm.h"
#include "core/rng.h"
#include "tests/support/op_check.h"

namespace matvlm::testing {
namespace {

std::vector<float> values(int64_t n, uint64_t stream, double scale) {
  std::vector<float> out(static_cast<size_t>(n));
  const Rng rng{5, stream};
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(bf16(static_cast<float>(scale * rng.normal(i))));
  return out;
}

struct Product {
  int64_t rows, inner, columns;
};

struct Operands {
  std::vector<float> dy, w, pre;
  explicit Operands(const Product& p)
      : dy(values(p.rows * p.inner, 1, 1.0)),
        w(values(p.inner * p.columns, 2, 0.1)),
        pre(values(p.rows * p.columns, 3, 2.0)) {
    // The ends of GELU's range, where its slope is 0 or 1.
    pre.front() = 40.0F;
    pre.back() = -1e4F;
  }
};

std::vector<double> exact(const Product& p, const Operands& o) {
  const std::vector<double> dy(o.dy.begin(), o.dy.end()), w(o.w.begin(), o.w.end());
  std::vector<double> dx(o.pre.size());
  gemm_cpu<double>(false, false, p.rows, p.columns, p.inner, 1.0, dy.data(), p.inner, w.data(), p.columns, 0.0,
                   dx.data(), p.columns);
  for (size_t i = 0; i < dx.size(); ++i) {
    dx[i] *= GeluTanh::slope(static_cast<double>(o.pre[i]));
  }
  return dx;
}

// dx among columns that are not its own when `extra` is not 0.
std::vector<float> run(Context& ctx, const Product& p, const Operands& o, int64_t extra) {
  const auto in = [&](const std::vector<float>& v, int64_t rows, int64_t columns) {
    return Tensor::from_floats(ctx, v, {rows, columns}, DType::bf16);
  };
  const std::vector<float> filled(static_cast<size_t>(p.rows * (p.columns + extra)), 3.0F);
  const Tensor all = in(filled, p.rows, p.columns + extra);
  const Tensor dx = all.slice_cols(extra / 2, extra / 2 + p.columns);
  const bool done = gelu_gradient_product(ctx, in(o.dy, p.rows, p.inner), in(o.w, p.inner, p.columns),
                                          in(o.pre, p.rows, p.columns), dx);
  EXPECT_TRUE(done);
  const std::vector<float> around = all.to_floats(ctx);
  for (size_t i = 0; i < around.size(); ++i) {
    const auto column = static_cast<int64_t>(i) % (p.columns + extra) - extra / 2;
    if (column < 0 || column >= p.columns) {
      EXPECT_EQ(around[i], 3.0F) << i;
    }
  }
  return dx.to_floats(ctx);
}

TEST(GeluGradient, RefusedOnCpu) {
  const auto zeros = [](Shape shape) { return Tensor::zeros(cpu(), std::move(shape), DType::bf16); };
  EXPECT_FALSE(gelu_gradient_fits(cpu(), zeros({4096, 10240})));
  EXPECT_FALSE(gelu_gradient_product(cpu(), zeros({8, 8}), zeros({8, 16}), zeros({8, 16}), zeros({8, 16})));
}

// At the full-size step's shape it is taken wherever it exists.
bool exists(Context& ctx) { return gelu_gradient_fits(ctx, Tensor::empty(ctx, {4096, 10240}, DType::bf16)); }
constexpr const char* kWhere = "the kernel is for compute capability 9.0";

TEST(GeluGradientCuda, AgainstDouble) {
  const auto ctx = new_cuda();
  if (!exists(*ctx)) GTEST_SKIP() << kWhere;
  for (const Product& p : std::vector<Product>{{1, 8, 8},
                                               {65, 72, 264},
                                               {128, 64, 256},
                                               {300, 200, 520},
                                               {257, 136, 1032},
                                               {1300, 320, 7176},
                                               {512, 2560, 1024}}) {
    SCOPED_TRACE(cat(p.rows, " x ", p.inner, " x ", p.columns));
    const Operands o(p);
    const std::vector<double> expected = exact(p, o);
    const std::vector<float> found = run(*ctx, p, o, 0);
    EXPECT_LE(relative_error(found, expected), 2e-3);  // rounding of the result alone: 1.2e-3
    EXPECT_EQ(found, run(*ctx, p, o, 0));
    EXPECT_EQ(found, run(*ctx, p, o, 48));
  }
}

TEST(GeluGradientCuda, NotForFewTiles) {
  const auto ctx = new_cuda();
  EXPECT_FALSE(gelu_gradient_fits(*ctx, Tensor::empty(*ctx, {80, 10240}, DType::bf16)));
}

TEST(GeluGradientCuda, RefusesAddressesAndWidths) {
  const auto ctx = new_cuda();
  const auto zeros = [&](Shape shape) { return Tensor::zeros(*ctx, std::move(shape), DType::bf16); };
  const Tensor dy = zeros({8, 16}), w = zeros({16, 32}), pre = zeros({8, 32});
  EXPECT_FALSE(gelu_gradient_product(*ctx, dy, w, pre, zeros({8, 36}).slice_cols(2, 34)));
  EXPECT_FALSE(gelu_gradient_product(*ctx, zeros({8, 20}), zeros({20, 32}), pre, zeros({8, 32})));
  EXPECT_THROW(gelu_gradient_product(*ctx, dy, w, zeros({8, 24}), zeros({8, 32})), Error);
}

}  // namespace
}  // namespace matvlm::testing
