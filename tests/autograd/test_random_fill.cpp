// Random values made on a device: the stated function of (seed, stream, index), in range, and the same bits everywhere.
#include "autograd/ops/random_fill.h"
#include "tests/support/errors.h"
#include "tests/support/op_check.h"

namespace matvlm::testing {
namespace {

constexpr int64_t kSizes[] = {0, 1, 2, 255, 256, 257, 100003};

TEST(RandomFill, IsTheFunctionOfItsIndex) {
  const Rng rng{5, stream_of("a.weight")};
  for (const int64_t n : kSizes) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Tensor t = Tensor::empty(cpu(), {n}, dtype);
      fill_random(cpu(), t, 0.5, 0.25, rng);
      const std::vector<float> found = t.to_floats(cpu());
      double sum = 0;
      for (int64_t i = 0; i < n; ++i) {
        const auto exact = static_cast<float>(0.25 + 0.5 * rng.uniform(static_cast<uint64_t>(i)));
        const float value = found[static_cast<size_t>(i)];
        // One rounding more or less in double shows at most in the last bit of a float.
        ASSERT_NEAR(value, exact, dtype == DType::f32 ? 1e-7 : 0.002) << i;
        ASSERT_TRUE(value >= 0.25F && value <= 0.75F) << i;
        sum += value;
      }
      if (n > 1000) {
        EXPECT_NEAR(sum / static_cast<double>(n), 0.5, 0.002);
      }
    }
  }
}

TEST(RandomFill, NoBoundIsAConstant) {
  const Tensor t = Tensor::empty(cpu(), {3, 7}, DType::bf16);
  fill_random(cpu(), t, 1.0, 0.0, {1, 2});
  EXPECT_EQ(t.to_floats(cpu()), std::vector<float>(21, 1.0F));
}

TEST(RandomFill, AColumnRangeIsAnError) {
  const Tensor t = Tensor::empty(cpu(), {3, 8}, DType::f32).slice_cols(2, 5);
  EXPECT_EQ(error_of([&] {
              fill_random(cpu(), t, 0, 1, {1, 2});
            }),
            "[fill_random] found a column range of [3, 3], expected a contiguous tensor");
}

TEST(RandomFillCuda, SameBitsAsOnTheCpu) {
  const auto ctx = new_cuda();
  const Rng rng{7, stream_of("b.weight")};
  for (const int64_t n : kSizes) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Tensor host = Tensor::empty(cpu(), {n}, dtype);
      const Tensor device = Tensor::empty(*ctx, {n}, dtype);
      fill_random(cpu(), host, -0.01, 0.03, rng);
      fill_random(*ctx, device, -0.01, 0.03, rng);
      EXPECT_EQ(device.to_floats(*ctx), host.to_floats(cpu())) << n << " " << dtype_name(dtype);
    }
  }
}

}  // namespace
}  // namespace matvlm::testing
