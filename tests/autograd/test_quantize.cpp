// Conversion to fp8 with a scale per row: against the format's definition, bit by bit, on both devices.
#include "autograd/ops/quantize.h"

#include <gtest/gtest.h>

#include "tests/support/fp8.h"
#include "tests/support/op_check.h"

namespace matvlm::testing {
namespace {

struct Case {
  int64_t rows, cols;
  int64_t offset = 0;  // of the first column in a wider row
};
// Widths on either side of what a warp, two, four and eight of them hold of bf16 and of float32; offsets that break the
// alignment.
const std::vector<Case> kCases = {{1, 1},     {3, 16},    {65, 48},   {5, 33},       {4, 1152},    {257, 1280},
                                  {6, 1296},  {9, 2560},  {5, 2576},  {3, 4304},     {7, 5136},    {2, 10240},
                                  {3, 10256}, {1, 20480}, {2, 20496}, {9, 2560, 16}, {9, 2560, 1}, {4, 48, 3}};

// Normal numbers, each row of its own magnitude, one row of zeros, and a few elements far below their row's largest.
std::vector<float> case_values(const Case& c) {
  std::vector<float> x = convert<float>(random_values(cat("x", c.rows, "x", c.cols), c.rows * c.cols));
  for (int64_t r = 0; r < c.rows; ++r) {
    const auto magnitude = static_cast<float>(std::pow(10.0, static_cast<double>(r % 11) - 6));
    for (int64_t i = 0; i < c.cols; ++i) {
      float& v = x[static_cast<size_t>(r * c.cols + i)];
      v *= r % 7 == 5 ? 0.0F : magnitude * (i % 13 == 4 ? 1e-4F : 1.0F);
    }
  }
  return x;
}

Tensor case_tensor(Context& ctx, const Case& c, DType dtype) {
  const std::vector<float> x = case_values(c);
  if (c.offset == 0) return Tensor::from_floats(ctx, x, {c.rows, c.cols}, dtype);
  const int64_t wide = c.cols + 2 * c.offset;
  std::vector<float> all(static_cast<size_t>(c.rows * wide), std::nanf(""));
  for (int64_t r = 0; r < c.rows; ++r) {
    std::copy_n(x.begin() + r * c.cols, c.cols, all.begin() + r * wide + c.offset);
  }
  return Tensor::from_floats(ctx, all, {c.rows, wide}, dtype).slice_cols(c.offset, c.offset + c.cols);
}

std::vector<float> case_factor(const Case& c) {
  std::vector<float> factor;
  for (int64_t i = 0; i < c.cols; ++i)
    factor.push_back(static_cast<float>(std::ldexp(1.0, static_cast<int>(i % 9) - 7)));
  return factor;
}

void check_against_definition(Context& ctx, const Case& c, DType dtype, bool with_factor) {
  SCOPED_TRACE(cat(c.rows, "x", c.cols, "+", c.offset, " ", dtype_name(dtype), with_factor ? " factor" : ""));
  const Tensor x = case_tensor(ctx, c, dtype);
  const std::vector<float> factor = case_factor(c);
  const Fp8Matrix found = quantize_rows(ctx, x, with_factor ? Tensor::from(ctx, factor, {c.cols}) : Tensor());
  EXPECT_EQ(found.values.shape(), (Shape{c.rows, c.cols}));
  std::vector<float> values = x.to_floats(ctx);
  if (with_factor) {
    for (size_t i = 0; i < values.size(); ++i) values[i] *= factor[i % static_cast<size_t>(c.cols)];
  }
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  for (int64_t r = 0; r < c.rows; ++r) {
    const float* row = values.data() + r * c.cols;
    double largest = 0;
    for (int64_t i = 0; i < c.cols; ++i) largest = std::max(largest, std::fabs(static_cast<double>(row[i])));
    scales.push_back(static_cast<float>(row_scale(largest)));
    for (int64_t i = 0; i < c.cols; ++i) {
      codes.push_back(nearest_e4m3(static_cast<double>(row[i]) / static_cast<double>(scales.back())));
    }
  }
  EXPECT_EQ(found.scale.to_floats(ctx), scales);
  EXPECT_EQ(bytes_of(ctx, found.values), codes);
}

void check_all(Context& ctx, DType dtype) {
  for (const Case& c : kCases) {
    check_against_definition(ctx, c, dtype, false);
    check_against_definition(ctx, c, dtype, true);
  }
}

TEST(Quantize, AgainstTheDefinition) {
  check_all(cpu(), DType::f32);
  check_all(cpu(), DType::bf16);
}

// What was rounded to fp8 once is not rounded again.
TEST(Quantize, TwiceIsOnce) {
  Context& ctx = cpu();
  const std::vector<double> once = dequantized(ctx, quantize_rows(ctx, case_tensor(ctx, {65, 48}, DType::f32)));
  const Tensor values = Tensor::from(ctx, convert<float>(once), {65, 48});
  EXPECT_EQ(dequantized(ctx, quantize_rows(ctx, values)), once);
}

// The saturating format must not turn an infinity into 448.
void check_not_finite(Context& ctx, int64_t cols) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::nanf("")}) {
    std::vector<float> x(static_cast<size_t>(3 * cols), 1.0F);
    x[static_cast<size_t>(2 * cols - 1)] = bad;
    const std::vector<double> found = dequantized(ctx, quantize_rows(ctx, Tensor::from(ctx, x, {3, cols})));
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(std::isnan(found[i]), static_cast<int64_t>(i) / cols == 1) << i << " with " << bad;
    }
  }
}
TEST(Quantize, NanAndInfinityMakeTheirRowNan) { check_not_finite(cpu(), 48); }

TEST(Quantize, LeadingDimensionsAreRows) {
  const Tensor x = Tensor::zeros(cpu(), {2, 3, 16}, DType::f32);
  EXPECT_EQ(quantize_rows(cpu(), x).values.shape(), (Shape{6, 16}));
  EXPECT_EQ(quantize_rows(cpu(), Tensor::empty(cpu(), {0, 16}, DType::f32)).values.shape(), (Shape{0, 16}));
}

void check_transpose(Context& ctx) {
  for (const auto& [rows, cols] :
       std::vector<std::pair<int64_t, int64_t>>{{4, 4}, {16, 48}, {64, 64}, {68, 132}, {1152, 80}, {0, 16}}) {
    std::vector<uint8_t> x(static_cast<size_t>(rows * cols));
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>((i * 7919) >> 3);
    const Tensor y = transpose_bytes(ctx, Tensor::from(ctx, x, {rows, cols}));
    ASSERT_EQ(y.shape(), (Shape{cols, rows}));
    const std::vector<uint8_t> found = bytes_of(ctx, y);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        ASSERT_EQ(found[static_cast<size_t>(c * rows + r)], x[static_cast<size_t>(r * cols + c)]) << r << " " << c;
      }
    }
  }
}
TEST(Quantize, Transpose) { check_transpose(cpu()); }

TEST(Quantize, WrongFactorIsAnError) {
  const Tensor x = Tensor::zeros(cpu(), {2, 16}, DType::f32);
  try {
    quantize_rows(cpu(), x, Tensor::zeros(cpu(), {8}, DType::f32));
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "[quantize] factor: found [8], expected [16]");
  }
}

TEST(QuantizeCuda, AgainstTheDefinition) {
  const auto ctx = new_cuda();
  check_all(*ctx, DType::f32);
  check_all(*ctx, DType::bf16);
}
TEST(QuantizeCuda, NanAndInfinityMakeTheirRowNan) {
  const auto ctx = new_cuda();
  check_not_finite(*ctx, 48);
  check_not_finite(*ctx, 33);
}
TEST(QuantizeCuda, Transpose) { check_transpose(*new_cuda()); }

}  // namespace
}  // namespace matvlm::testing
