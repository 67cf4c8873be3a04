// float32 in two halves and a bit: every pattern comes back, and the upper half is what bf16 rounds to.
#include "autograd/split_float.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "autograd/float32_view.h"
#include "tests/support/errors.h"
#include "tests/support/op_check.h"

namespace matvlm::testing {
namespace {

uint32_t bits_of(float x) { return std::bit_cast<uint32_t>(x); }

// Whether `pattern` comes back, from a half that is its rounding.
bool survives(uint32_t pattern) {
  const auto x = std::bit_cast<float>(pattern);
  const SplitFloat s = split_float(x);
  return s.high == bf16(x).bits && bits_of(join_float(s)) == pattern;
}

// For all of sign, exponent and seven bits of mantissa, infinities and NaNs among them: the ties, their neighbours, the
// ends, and a walk over what lies between.
TEST(SplitFloat, EveryPatternComesBack) {
  int64_t bad = 0;
  for (uint32_t begin = 0; begin < 0x10000; ++begin) {
    for (const uint32_t end : {0x0000U, 0x0001U, 0x7fffU, 0x8000U, 0x8001U, 0xfffeU, 0xffffU}) {
      bad += survives(begin << 16 | end) ? 0 : 1;
    }
    for (uint32_t end = begin % 251; end < 0x10000; end += 251) bad += survives(begin << 16 | end) ? 0 : 1;
  }
  EXPECT_EQ(bad, 0);
}

TEST(SplitFloat, EveryDenormalComesBack) {
  int64_t bad = 0;
  for (uint32_t pattern = 0; pattern < 0x00800000; ++pattern) {
    bad += survives(pattern) && survives(pattern | 0x80000000U) ? 0 : 1;
  }
  EXPECT_EQ(bad, 0);
}

// Two floats that differ in the bit alone: the ties on both sides of an even mantissa.
TEST(SplitFloat, TheBitIsNeeded) {
  const SplitFloat above = split_float(std::bit_cast<float>(0x3f808000U));
  const SplitFloat below = split_float(std::bit_cast<float>(0x3f7f8000U));
  EXPECT_EQ(above.high, below.high);
  EXPECT_EQ(above.low, below.low);
  EXPECT_FALSE(above.up);
  EXPECT_TRUE(below.up);
}

TEST(SplitFloat, TheEndsOfTheRange) {
  const SplitFloat largest = split_float(std::numeric_limits<float>::max());
  EXPECT_EQ(largest.high, 0x7f80);  // infinity, as bf16 rounds it
  EXPECT_EQ(join_float(largest), std::numeric_limits<float>::max());
  EXPECT_EQ(join_float(split_float(-std::numeric_limits<float>::infinity())), -std::numeric_limits<float>::infinity());
  const auto signalling = std::bit_cast<float>(0x7f800001U);
  EXPECT_EQ(split_float(signalling).high, 0x7fc0);
  EXPECT_EQ(bits_of(join_float(split_float(signalling))), 0x7f800001U);
  EXPECT_EQ(bits_of(join_float(split_float(-0.0F))), 0x80000000U);
}

Float32View split_view(Context& ctx, int64_t n) {
  return {Tensor::zeros(ctx, {n}, DType::bf16), Tensor::zeros(ctx, {n}, DType::i16),
          Tensor::zeros(ctx, {(n + 7) / 8}, DType::u8)};
}

void check_views(Context& ctx) {
  constexpr int64_t kSize = 83;
  std::vector<float> values = convert<float>(random_values("values", kSize));
  values[3] = std::bit_cast<float>(0x3f808000U);
  values[8] = std::bit_cast<float>(0xbf7f8000U);
  values[82] = std::bit_cast<float>(0x3f7f8000U);
  for (const Float32View& view : {split_view(ctx, kSize), Float32View(Tensor::zeros(ctx, {kSize}, DType::f32))}) {
    EXPECT_TRUE(view.defined());
    view.copy_from_floats(ctx, values);
    EXPECT_EQ(view.to_floats(ctx), values);
    const Float32View part = view.slice(8, kSize, {5, 15});
    EXPECT_EQ(part.shape(), (Shape{5, 15}));
    EXPECT_EQ(part.to_floats(ctx), std::vector<float>(values.begin() + 8, values.end()));
    const std::vector<float> less(75, 0.25F);
    part.copy_from_floats(ctx, less);
    std::vector<float> expected(values.begin(), values.begin() + 8);
    expected.insert(expected.end(), less.begin(), less.end());
    EXPECT_EQ(view.to_floats(ctx), expected) << "the view wrote outside of itself";
    EXPECT_TRUE(contains(error_of([&] { view.copy_from_floats(ctx, less); }), "found 75 values for shape [83]"));
    if (!view.split()) continue;
    EXPECT_EQ(part.high().to_floats(ctx), less);
    EXPECT_TRUE(contains(error_of([&] { view.slice(4, 8, {4}); }), "view from element 4, expected a multiple of 8"));
  }
}

TEST(Float32View, WholeAndSplitHoldTheSame) { check_views(cpu()); }
TEST(Float32ViewCuda, WholeAndSplitHoldTheSame) { check_views(*new_cuda()); }

TEST(Float32View, PiecesOnTheCpu) {
  const Float32View view = split_view(cpu(), 40);
  const std::vector<float> values = convert<float>(random_values("values", 40));
  view.copy_from_floats(cpu(), values);
  std::vector<float> piece(20);
  view.read_cpu(16, piece);
  EXPECT_EQ(piece, std::vector<float>(values.begin() + 16, values.begin() + 36));
  for (float& v : piece) v *= -3;
  view.write_cpu(16, std::span<const float>(piece).first(16));
  std::vector<float> expected = values;
  std::copy(piece.begin(), piece.begin() + 16, expected.begin() + 16);
  EXPECT_EQ(view.to_floats(cpu()), expected);
}

}  // namespace
}  // namespace matvlm::testing
