// fp8: its conversions against the format's definition, and products against double over the numbers that are stored.
#include "core/gemm_fp8.h"

#include <gtest/gtest.h>

#include "tests/support/fp8.h"
#include "tests/support/op_check.h"

namespace matvlm::testing {
namespace {

TEST(Fp8, EveryCodeIsItsNumber) {
  for (int code = 0; code < 256; ++code) {
    e4m3 number;
    number.bits = static_cast<uint8_t>(code);
    const auto found = static_cast<double>(static_cast<float>(number));
    if ((code & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(found)) << code;
      continue;
    }
    EXPECT_EQ(found, e4m3_value(number.bits)) << code;
    EXPECT_EQ(std::signbit(found), code >= 128) << code;
    EXPECT_EQ(e4m3(static_cast<float>(number)).bits, code);
  }
}

// At every number, half way to the next, and one float to either side of both.
TEST(Fp8, RoundsToNearestEven) {
  const auto& numbers = e4m3_numbers();
  for (size_t i = 0; i < numbers.size(); ++i) {
    const double next = i + 1 < numbers.size() ? numbers[i + 1] : 480.0;
    for (const double at : {numbers[i], 0.5 * (numbers[i] + next)}) {
      const auto x = static_cast<float>(at);
      for (const float v : {x, std::nextafter(x, 1e9F), std::nextafter(x, -1e9F)}) {
        EXPECT_EQ(e4m3(v).bits, nearest_e4m3(static_cast<double>(v))) << v;
        EXPECT_EQ(e4m3(-v).bits, nearest_e4m3(static_cast<double>(-v))) << -v;
      }
    }
  }
  for (const double v : random_values("fp8", 100000, 3.0)) {
    const auto x = static_cast<float>(std::exp2(v) * (v < 0 ? -1 : 1));
    ASSERT_EQ(e4m3(x).bits, nearest_e4m3(static_cast<double>(x))) << x;
  }
}

TEST(Fp8, LargeNumbersSaturateAndNanStays) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float x : {448.0F, 449.0F, 464.0F, 465.0F, 1e30F, kInfinity}) {
    EXPECT_EQ(e4m3(x).bits, 0x7e) << x;
    EXPECT_EQ(e4m3(-x).bits, 0xfe) << x;
  }
  EXPECT_TRUE(std::isnan(static_cast<float>(e4m3(std::nanf("")))));
  EXPECT_TRUE(std::isnan(static_cast<float>(e4m3(-std::nanf("")))));
  EXPECT_EQ(e4m3(-0.0F).bits, 0x80);
  EXPECT_EQ(e4m3(0x1p-10F).bits, 0);  // half the smallest: to even
  EXPECT_EQ(e4m3(0x1.8p-10F).bits, 1);
}

TEST(Fp8, ScaleIsTheSmallestPowerOfTwoThatFits) {
  const auto scale = [](float largest) { return fp8_scale(std::bit_cast<uint32_t>(largest)); };
  for (const float largest : {0.0F, 1e-40F, 1e-28F, 0.3F, 1.0F, 1.75F, std::nextafter(1.75F, 2.0F), 447.0F, 448.0F,
                              std::nextafter(448.0F, 449.0F), 1e10F, std::numeric_limits<float>::max()}) {
    EXPECT_EQ(static_cast<double>(scale(largest).scale), row_scale(static_cast<double>(largest))) << largest;
    EXPECT_EQ(scale(largest).scale * scale(largest).inverse, 1.0F) << largest;
  }
  EXPECT_TRUE(std::isnan(scale(std::numeric_limits<float>::infinity()).scale));
  EXPECT_TRUE(std::isnan(scale(std::nanf("")).scale));
}

// ---- Products.

struct Case {
  int64_t m, n, k;
};
// Depths and widths are multiples of 16; rows are free.
const std::vector<Case> kCases = {{1, 16, 16},   {2, 48, 32},     {63, 80, 144},    {65, 144, 1152}, {300, 32, 48},
                                  {7, 1152, 80}, {129, 64, 2560}, {128, 320, 4304}, {17, 16, 10240}};

// Codes of normal numbers, scales between 2^-3 and 2^3.
Fp8Matrix random_matrix(Context& ctx, const std::string& name, int64_t rows, int64_t cols) {
  std::vector<uint8_t> codes;
  for (const double v : random_values(cat(name, rows, "x", cols), rows * cols, 60.0)) codes.push_back(nearest_e4m3(v));
  std::vector<float> scales;
  for (int64_t r = 0; r < rows; ++r) scales.push_back(static_cast<float>(std::ldexp(1.0, static_cast<int>(r % 7) - 3)));
  return {Tensor::from(ctx, codes, {rows, cols}), Tensor::from(ctx, scales, {rows})};
}

std::vector<double> plain_product(Context& ctx, const Case& s, const Fp8Matrix& a, const Fp8Matrix& b) {
  const std::vector<double> x = dequantized(ctx, a);
  const std::vector<double> w = dequantized(ctx, b);
  std::vector<double> c(static_cast<size_t>(s.m * s.n), 0.0);
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t j = 0; j < s.n; ++j) {
      double sum = 0;
      for (int64_t l = 0; l < s.k; ++l) {
        sum += x[static_cast<size_t>(i * s.k + l)] * w[static_cast<size_t>(j * s.k + l)];
      }
      c[static_cast<size_t>(i * s.n + j)] = sum;
    }
  }
  return c;
}

// NaN with 16 guard columns on each side, which must still be NaN afterwards.
struct Output {
  Output(Context& ctx, const Case& s, DType dtype)
      : wide(Tensor::from_floats(ctx, std::vector<float>(static_cast<size_t>(s.m * (s.n + 32)), std::nanf("")),
                                 {s.m, s.n + 32}, dtype)),
        view(wide.slice_cols(16, s.n + 16)) {}
  void check(Context& ctx) const {
    const std::vector<float> values = wide.to_floats(ctx);
    for (size_t i = 0; i < values.size(); ++i) {
      const auto c = static_cast<int64_t>(i) % wide.cols();
      if (c < 16 || c >= wide.cols() - 16) {
        ASSERT_TRUE(std::isnan(values[i])) << "written beside the columns of C";
      }
    }
  }
  Tensor wide, view;
};

void check_products(Context& ctx, DType dtype, Fp8Sums sums, double slack) {
  for (const Case& s : kCases) {
    SCOPED_TRACE(cat(s.m, "x", s.n, "x", s.k, " ", dtype_name(dtype)));
    const Fp8Matrix a = random_matrix(ctx, "a", s.m, s.k);
    const Fp8Matrix b = random_matrix(ctx, "b", s.n, s.k);
    const std::vector<double> product = plain_product(ctx, s, a, b);
    const Output c(ctx, s, dtype);
    gemm_fp8(ctx, a, b, {}, 0.0F, c.view, sums);
    const std::vector<float> first = c.view.to_floats(ctx);
    expect_within_rounding(first, product, dtype, "product", slack);
    c.check(ctx);
    gemm_fp8(ctx, a, b, {}, 0.0F, c.view, sums);
    EXPECT_EQ(first, c.view.to_floats(ctx)) << "other bits at the second time";

    gemm_fp8(ctx, a, b, {}, 2.0F, c.view, sums);
    std::vector<double> expected = product;
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += 2.0 * static_cast<double>(first[i]);
    expect_within_rounding(c.view.to_floats(ctx), expected, dtype, "added", slack);
    c.check(ctx);

    const std::vector<double> row = random_values("bias", s.n, 1000.0);
    const Tensor bias = Tensor::from_floats(ctx, convert<float>(row), {s.n}, dtype);
    const std::vector<float> rounded = bias.to_floats(ctx);
    expected = product;
    for (size_t i = 0; i < expected.size(); ++i) {
      expected[i] += static_cast<double>(rounded[i % static_cast<size_t>(s.n)]);
    }
    gemm_fp8(ctx, a, b, bias, 0.0F, c.view, sums);
    expect_within_rounding(c.view.to_floats(ctx), expected, dtype, "bias", slack);
    c.check(ctx);
    const Tensor packed = Tensor::empty(ctx, {s.m, s.n}, dtype);
    gemm_fp8(ctx, a, b, bias, 0.0F, packed, sums);
    expect_within_rounding(packed.to_floats(ctx), expected, dtype, "bias, packed", slack);
  }
}

// Stored numbers and their products are exact in float; sums of 10,240 of them are below 2e-6 of the norm.
TEST(GemmFp8, AgainstDouble) { check_products(cpu(), DType::f32, Fp8Sums::promoted, 2e-6); }

// A row or column without a finite scale is NaN, and no other is.
void check_nan(Context& ctx, DType dtype) {
  Fp8Matrix a = random_matrix(ctx, "a", 4, 32);
  const Fp8Matrix b = random_matrix(ctx, "b", 16, 32);
  a.scale = Tensor::from(ctx, std::vector<float>{1.0F, std::nanf(""), 1.0F, 2.0F}, {4});
  const Tensor c = Tensor::empty(ctx, {4, 16}, dtype);
  gemm_fp8(ctx, a, b, {}, 0.0F, c, Fp8Sums::fast);
  const std::vector<float> values = c.to_floats(ctx);
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(std::isnan(values[i]), i / 16 == 1) << i;
}
TEST(GemmFp8, NanStaysInItsRow) { check_nan(cpu(), DType::f32); }

TEST(GemmFp8, EmptyRowsAreNoWork) {
  const Fp8Matrix b = random_matrix(cpu(), "b", 16, 32);
  const Fp8Matrix none{Tensor::empty(cpu(), {0, 32}, DType::u8), Tensor::empty(cpu(), {0}, DType::f32)};
  EXPECT_NO_THROW(gemm_fp8(cpu(), none, b, {}, 0.0F, Tensor::empty(cpu(), {0, 16}, DType::f32), Fp8Sums::fast));
}

TEST(GemmFp8, WrongOperandsAreErrors) {
  Context& ctx = cpu();
  const Fp8Matrix a = random_matrix(ctx, "a", 4, 32);
  const Fp8Matrix b = random_matrix(ctx, "b", 16, 32);
  const auto message = [&](const Fp8Matrix& x, const Fp8Matrix& w, const Tensor& bias, float beta, const Tensor& c) {
    try {
      gemm_fp8(ctx, x, w, bias, beta, c, Fp8Sums::fast);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  const Tensor c = Tensor::zeros(ctx, {4, 16}, DType::f32);
  const Tensor bias = Tensor::zeros(ctx, {16}, DType::f32);
  EXPECT_EQ(message(a, b, {}, 0, Tensor::zeros(ctx, {4, 32}, DType::f32)),
            "[gemm_fp8] A [4, 32] times B [16, 32]^T does not give C [4, 32]");
  EXPECT_EQ(message(a, random_matrix(ctx, "b", 16, 48), {}, 0, c),
            "[gemm_fp8] A [4, 32] times B [16, 48]^T does not give C [4, 16]");
  EXPECT_EQ(message(a, random_matrix(ctx, "b", 20, 32), {}, 0, Tensor::zeros(ctx, {4, 20}, DType::f32)),
            "[gemm_fp8] B: found [20, 32], expected multiples of 16");
  EXPECT_EQ(message(a, b, bias, 1, c), "[gemm_fp8] found a bias and beta 1, expected one of the two");
  EXPECT_EQ(message(a, b, {}, 0, Tensor::zeros(ctx, {4, 16}, DType::bf16)),
            "[gemm_fp8] C: found bf16 on cpu, expected f32");
  EXPECT_EQ(message({a.values, b.scale}, b, {}, 0, c), "[gemm_fp8] scale: found [16], expected [4]");
  EXPECT_EQ(message({}, b, {}, 0, c), "[gemm_fp8] A is undefined");
}

// Tensor cores keep 13 bits below the largest of the numbers that one instruction adds. Of 32 summands at random that
// is some 2e-4 of their sum, which adding parts in float32 does not enlarge; in their own accumulator the sum so far is
// cut in each of the 320 steps of the longest depth here, to some 1e-2 at most.
constexpr double kPromotedSlack = 1e-3;
constexpr double kFastSlack = 1.5e-2;

TEST(GemmFp8Cuda, Bf16) {
  const auto ctx = new_cuda();
  if (!fp8_obstacle(*ctx).empty()) GTEST_SKIP() << fp8_obstacle(*ctx);
  check_products(*ctx, DType::bf16, Fp8Sums::promoted, kPromotedSlack);
  check_products(*ctx, DType::bf16, Fp8Sums::fast, kFastSlack);
  check_nan(*ctx, DType::bf16);
}
TEST(GemmFp8Cuda, Float32) {
  const auto ctx = new_cuda();
  if (!fp8_obstacle(*ctx).empty()) GTEST_SKIP() << fp8_obstacle(*ctx);
  check_products(*ctx, DType::f32, Fp8Sums::promoted, kPromotedSlack);
  check_products(*ctx, DType::f32, Fp8Sums::fast, kFastSlack);
  check_nan(*ctx, DType::f32);
}

}  // namespace
}  // namespace matvlm::testing
