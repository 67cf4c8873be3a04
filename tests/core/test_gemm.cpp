// Matrix products: OpenBLAS and cuBLASLt against plain loops in double.
#include <gtest/gtest.h>

#include "core/gemm.h"
#include "tests/support/op_check.h"

namespace matvlm::testing {
namespace {

struct Case {
  int64_t m, n, k;
};
// Rows, columns and depths that break tiles, vectors and alignments; one row, one column, no depth.
const std::vector<Case> kCases = {{1, 20, 48},   {2, 48, 20},  {63, 72, 80},    {64, 144, 72}, {65, 80, 1151},
                                  {300, 33, 65}, {7, 1151, 3}, {129, 1, 64},    {1, 1, 1},     {5, 9, 0},
                                  {64, 64, 64},  {256, 7, 31}, {128, 320, 2560}};

// A matrix of r rows and c columns, stored with a stride and an offset; op(A) of the product is it or its transpose.
struct Matrix {
  int64_t rows, cols, stride;
  std::vector<double> storage;
  double at(int64_t r, int64_t c) const { return storage[static_cast<size_t>(r * stride + c)]; }
};

Matrix random_matrix(const std::string& name, int64_t rows, int64_t cols, int64_t pad) {
  Matrix m{rows, cols, cols + pad, {}};
  m.storage = random_values(cat(name, rows, "x", cols), rows * (cols + pad));
  return m;
}

double element(const Matrix& m, bool transposed, int64_t r, int64_t c) { return transposed ? m.at(c, r) : m.at(r, c); }

std::vector<double> plain_product(const Case& s, bool ta, bool tb, const Matrix& a, const Matrix& b) {
  std::vector<double> c(static_cast<size_t>(s.m * s.n), 0.0);
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t l = 0; l < s.k; ++l) {
      const double factor = element(a, ta, i, l);
      for (int64_t j = 0; j < s.n; ++j) c[static_cast<size_t>(i * s.n + j)] += factor * element(b, tb, l, j);
    }
  }
  return c;
}

// C = alpha op(A) op(B) + beta C by gemm_cpu, C inside guard bands and with NaN between its rows.
template <class T>
std::vector<T> run_raw(const Case& s, bool ta, bool tb, const Matrix& a, const Matrix& b, T alpha, T beta,
                       const std::vector<double>& start) {
  const std::vector<T> at(a.storage.begin(), a.storage.end());
  const std::vector<T> bt(b.storage.begin(), b.storage.end());
  Guarded<T> c(s.m * s.n);
  if (beta != T(0)) std::copy(start.begin(), start.end(), c.data());
  gemm_cpu<T>(ta, tb, s.m, s.n, s.k, alpha, at.data(), a.stride, bt.data(), b.stride, beta, c.data(), s.n);
  c.check("C");
  return c.values();
}

template <class F>
void for_each_case(const F& f) {
  for (const Case& s : kCases) {
    for (const bool ta : {false, true}) {
      for (const bool tb : {false, true}) {
        SCOPED_TRACE(cat(s.m, "x", s.n, "x", s.k, ta ? " A^T" : "", tb ? " B^T" : ""));
        f(s, ta, tb);
      }
    }
  }
}

TEST(Gemm, FloatAndDoubleAgainstPlainLoops) {
  for_each_case([](const Case& s, bool ta, bool tb) {
    const Matrix a = random_matrix("a", ta ? s.k : s.m, ta ? s.m : s.k, 5);
    const Matrix b = random_matrix("b", tb ? s.n : s.k, tb ? s.k : s.n, 3);
    const std::vector<double> start = random_values("c", s.m * s.n);
    const std::vector<double> product = plain_product(s, ta, tb, a, b);
    std::vector<double> scaled = product;
    for (size_t i = 0; i < scaled.size(); ++i) scaled[i] = 0.5 * product[i] + 2.0 * start[i];
    EXPECT_LE(relative_error(run_raw<double>(s, ta, tb, a, b, 1.0, 0.0, start), product), 1e-14);
    EXPECT_LE(relative_error(run_raw<double>(s, ta, tb, a, b, 0.5, 2.0, start), scaled), 1e-14);
    // Inputs rounded to float: 2^-24 each; the sum's own error grows with sqrt(k) and is smaller than that here.
    EXPECT_LE(relative_error(run_raw<float>(s, ta, tb, a, b, 1.0F, 0.0F, start), product), 5e-7);
    EXPECT_LE(relative_error(run_raw<float>(s, ta, tb, a, b, 0.5F, 2.0F, start), scaled), 5e-7);
  });
}

// The complex product carries derivatives of size 1e-30 beside values of size 1.
TEST(Gemm, ComplexStepThroughTheProduct) {
  using Complex = std::complex<double>;
  const Case s = {65, 33, 72};
  const Matrix a = random_matrix("a", s.m, s.k, 0);
  const Matrix b = random_matrix("b", s.k, s.n, 0);
  const Matrix d = random_matrix("d", s.m, s.k, 0);
  std::vector<Complex> az(a.storage.size());
  for (size_t i = 0; i < az.size(); ++i) az[i] = {a.storage[i], 1e-30 * d.storage[i]};
  const std::vector<Complex> bz(b.storage.begin(), b.storage.end());
  std::vector<Complex> c(static_cast<size_t>(s.m * s.n));
  gemm_cpu<Complex>(false, false, s.m, s.n, s.k, 1.0, az.data(), s.k, bz.data(), s.n, 0.0, c.data(), s.n);
  std::vector<double> slope(c.size());
  for (size_t i = 0; i < c.size(); ++i) slope[i] = c[i].imag() / 1e-30;
  EXPECT_LE(relative_error(slope, plain_product(s, false, false, d, b)), 1e-13);
}

// A column range of a wider tensor.
Tensor matrix_view(Context& ctx, const Matrix& m, DType dtype, int64_t offset) {
  const int64_t wide = m.cols + offset + 2;
  std::vector<float> values(static_cast<size_t>(m.rows * wide), 9.0F);
  for (int64_t r = 0; r < m.rows; ++r) {
    for (int64_t c = 0; c < m.cols; ++c)
      values[static_cast<size_t>(r * wide + offset + c)] = static_cast<float>(m.at(r, c));
  }
  return Tensor::from_floats(ctx, values, {m.rows, wide}, dtype).slice_cols(offset, offset + m.cols);
}

Matrix rounded(Matrix m, DType dtype) {
  m.storage = dtype == DType::bf16 ? round_bf16(m.storage) : convert<double>(convert<float>(m.storage));
  return m;
}

// NaN with a guard column on each side, which must still be NaN afterwards.
struct Output {
  Output(Context& ctx, int64_t rows, int64_t cols, DType dtype)
      : wide(Tensor::from_floats(ctx, std::vector<float>(static_cast<size_t>(rows * (cols + 2)), std::nanf("")),
                                 {rows, cols + 2}, dtype)),
        view(wide.slice_cols(1, cols + 1)) {}
  void check(Context& ctx) const {
    const std::vector<float> values = wide.to_floats(ctx);
    for (size_t i = 0; i < values.size(); ++i) {
      const auto c = static_cast<int64_t>(i) % wide.cols();
      if (c == 0 || c == wide.cols() - 1) {
        ASSERT_TRUE(std::isnan(values[i])) << "written beside the columns of C";
      }
    }
  }
  Tensor wide, view;
};

void check_tensors(Context& ctx, DType in, DType out) {
  // Sums of k products in float32: far below 2e-6 of the norm for k up to 2560.
  constexpr double kSlack = 2e-6;
  for_each_case([&](const Case& s, bool ta, bool tb) {
    const Matrix a = rounded(random_matrix("a", ta ? s.k : s.m, ta ? s.m : s.k, 0), in);
    const Matrix b = rounded(random_matrix("b", tb ? s.n : s.k, tb ? s.k : s.n, 0), in);
    const std::vector<double> product = plain_product(s, ta, tb, a, b);
    const std::string what = cat(dtype_name(in), " -> ", dtype_name(out));
    for (const int64_t offset : {int64_t{0}, int64_t{1}, int64_t{8}}) {
      const Tensor at = matrix_view(ctx, a, in, offset);
      const Tensor bt = matrix_view(ctx, b, in, offset);
      const Output c(ctx, s.m, s.n, out);
      gemm(ctx, ta, tb, 1.0F, at, bt, 0.0F, c.view);
      const std::vector<float> first = c.view.to_floats(ctx);
      expect_within_rounding(first, product, out, what, kSlack);
      c.check(ctx);
      gemm(ctx, ta, tb, 1.0F, at, bt, 0.0F, c.view);
      EXPECT_EQ(first, c.view.to_floats(ctx)) << "other bits at the second time";
      gemm(ctx, ta, tb, 0.5F, at, bt, 2.0F, c.view);
      std::vector<double> scaled(product.size());
      for (size_t i = 0; i < scaled.size(); ++i) scaled[i] = 0.5 * product[i] + 2.0 * static_cast<double>(first[i]);
      expect_within_rounding(c.view.to_floats(ctx), scaled, out, what + " scaled", kSlack);
    }
  });
}

void check_bias(Context& ctx, DType dtype) {
  for (const Case& s : kCases) {
    SCOPED_TRACE(cat(s.m, "x", s.n, "x", s.k));
    const Matrix x = rounded(random_matrix("x", s.m, s.k, 0), dtype);
    const Matrix w = rounded(random_matrix("w", s.n, s.k, 0), dtype);
    const Matrix bias = rounded(random_matrix("bias", 1, s.n, 0), dtype);
    std::vector<double> expected = plain_product(s, false, true, x, w);
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += bias.at(0, static_cast<int64_t>(i) % s.n);
    for (const int64_t offset : {int64_t{0}, int64_t{1}}) {
      const Output y(ctx, s.m, s.n, dtype);
      const Tensor row = matrix_view(ctx, bias, dtype, offset).reshape({s.n});
      gemm_bias(ctx, matrix_view(ctx, x, dtype, offset), matrix_view(ctx, w, dtype, offset), row, y.view);
      expect_within_rounding(y.view.to_floats(ctx), expected, dtype, "bias", 2e-6);
      y.check(ctx);
      const Tensor packed = Tensor::empty(ctx, {s.m, s.n}, dtype);
      gemm_bias(ctx, matrix_view(ctx, x, dtype, 0), matrix_view(ctx, w, dtype, 0), row, packed);
      expect_within_rounding(packed.to_floats(ctx), expected, dtype, "bias, packed", 2e-6);
    }
  }
}

TEST(Gemm, Tensors) { check_tensors(cpu(), DType::f32, DType::f32); }
TEST(Gemm, Bias) { check_bias(cpu(), DType::f32); }

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(Gemm, WrongShapesAndTypesAreErrors) {
  const Tensor a = Tensor::zeros(cpu(), {2, 3}, DType::f32);
  const Tensor b = Tensor::zeros(cpu(), {4, 5}, DType::f32);
  const Tensor c = Tensor::zeros(cpu(), {2, 5}, DType::f32);
  const Tensor half = Tensor::zeros(cpu(), {3, 5}, DType::bf16);
  EXPECT_EQ(message_of([&] { gemm(cpu(), false, false, 1, a, b, 0, c); }),
            "[gemm] A [2, 3] times B [4, 5] does not give C [2, 5]");
  EXPECT_EQ(message_of([&] { gemm(cpu(), false, true, 1, a, b, 0, c); }),
            "[gemm] A [2, 3] times B [4, 5]^T does not give C [2, 5]");
  EXPECT_EQ(message_of([&] { gemm(cpu(), false, false, 1, a, half, 0, c); }),
            "[gemm] found f32 x bf16 -> f32 on cpu, expected f32 x f32 -> f32");
}

// Pinned, a row of the product has the same bits whatever rows stand beside it, and they are the product's.
void check_pinned(Context& ctx, DType dtype) {
  constexpr int64_t kRows = 300;
  for (const auto& [n, k] :
       std::vector<std::pair<int64_t, int64_t>>{{320, 320}, {1280, 320}, {320, 1280}, {72, 80}, {33, 65}}) {
    const auto random = [&](const char* name, const Shape& shape) {
      return Tensor::from_floats(ctx, convert<float>(random_values(name, shape_numel(shape))), shape, dtype);
    };
    const Tensor x = random("x", {kRows, k}), w = random("w", {n, k}), bias = random("bias", {n});
    const Tensor free = Tensor::empty(ctx, {kRows, n}, dtype), all = Tensor::empty(ctx, {kRows, n}, dtype);
    gemm_bias(ctx, x, w, bias, free);
    const PinnedProducts pinned;
    gemm_bias(ctx, x, w, bias, all);
    // And x W without a bias, as the gradient of an input has it.
    const Tensor wide = Tensor::empty(ctx, {kRows, k}, dtype);
    gemm(ctx, false, false, 1.0F, all, w, 0.0F, wide);
    EXPECT_LE(relative_error(all.to_floats(ctx), free.to_floats(ctx)), dtype == DType::f32 ? 1e-6 : 0.004);
    for (const auto& [begin, end] :
         std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {5, 6}, {64, 128}, {1, 258}, {299, 300}}) {
      const Tensor part = Tensor::empty(ctx, {end - begin, n}, dtype);
      gemm_bias(ctx, x.slice_rows(begin, end).clone(ctx), w, bias, part);
      EXPECT_EQ(part.to_floats(ctx), all.slice_rows(begin, end).to_floats(ctx))
          << dtype_name(dtype) << " rows " << begin << " to " << end << " of n " << n << " k " << k;
      const Tensor some = Tensor::empty(ctx, {end - begin, k}, dtype);
      gemm(ctx, false, false, 1.0F, part, w, 0.0F, some);
      EXPECT_EQ(some.to_floats(ctx), wide.slice_rows(begin, end).to_floats(ctx)) << dtype_name(dtype);
    }
  }
}

TEST(Gemm, PinnedRowsDoNotDependOnTheirNumber) { check_pinned(cpu(), DType::f32); }

TEST(GemmCuda, PinnedRowsDoNotDependOnTheirNumber) {
  const auto ctx = new_cuda();
  check_pinned(*ctx, DType::f32);
  check_pinned(*ctx, DType::bf16);
}

TEST(GemmCuda, Float32) {
  const auto ctx = new_cuda();
  check_tensors(*ctx, DType::f32, DType::f32);
  check_bias(*ctx, DType::f32);
}
TEST(GemmCuda, Bf16) {
  const auto ctx = new_cuda();
  check_tensors(*ctx, DType::bf16, DType::bf16);
  check_bias(*ctx, DType::bf16);
}
TEST(GemmCuda, Bf16ToFloat32) {
  const auto ctx = new_cuda();
  check_tensors(*ctx, DType::bf16, DType::f32);
}

}  // namespace
}  // namespace matvlm::testing
