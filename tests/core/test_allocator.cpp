// Counters, reuse and limit of the caching allocator.
#include <gtest/gtest.h>

#include <string>

#include "core/allocator.h"
#include "core/context.h"
#include "core/tensor.h"

namespace matvlm {
namespace {

TEST(Allocator, SizesAreRoundedTo512Bytes) {
  const auto a = make_cpu_allocator();
  void* one = a->allocate(1);
  EXPECT_EQ(a->stats().current, 512);
  void* two = a->allocate((1 << 20) + 1);
  EXPECT_EQ(a->stats().current, 512 + (1 << 20) + 512);
  a->deallocate(one);
  a->deallocate(two);
  EXPECT_EQ(a->stats().current, 0);
  EXPECT_EQ(a->stats().reserved, a->stats().peak);
  a->release_cached();
  EXPECT_EQ(a->stats().reserved, 0);
}

TEST(Allocator, ReusesBlocksOfItsSizeAndALittleLargerOnes) {
  const auto a = make_cpu_allocator();
  void* large = a->allocate(9 << 20);
  void* small = a->allocate(8 << 20);
  a->deallocate(large);
  a->deallocate(small);
  EXPECT_EQ(a->allocate(8 << 20), small);  // the one that fits best
  EXPECT_EQ(a->allocate(8 << 20), large);  // an eighth larger
  EXPECT_EQ(a->stats().current, 17 << 20);
  a->deallocate(large);
  void* other = a->allocate(7 << 20);  // the cached one is too large for it
  EXPECT_NE(other, large);
  EXPECT_EQ(a->stats().reserved, 24 << 20);
  a->deallocate(other);
  a->deallocate(small);
}

TEST(Allocator, AtTheLimitCachedBlocksGoBackBeforeItFails) {
  const auto a = make_cpu_allocator();
  a->set_limit(10 << 20);
  void* first = a->allocate(6 << 20);
  a->deallocate(first);
  void* second = a->allocate(10 << 20);  // fits only without the cached block
  EXPECT_EQ(a->stats().reserved, 10 << 20);
  try {
    a->allocate(1000);
    FAIL() << "no error";
  } catch (const OutOfMemory& e) {
    EXPECT_EQ(std::string(e.what()),
              "[allocator cpu] out of memory: asked for 1024 bytes, 10485760 in use, limit 10485760");
  }
  a->deallocate(second);
}

TEST(Allocator, TheStepPoolKeepsToItself) {
  const auto a = make_cpu_allocator();
  void* general = a->allocate(1 << 20);
  void* step = nullptr;
  {
    const StepMemory memory(*a);
    step = a->allocate(1 << 20);
  }
  EXPECT_EQ(a->stats().current, 2 << 20);
  a->deallocate(step);
  a->deallocate(general);
  EXPECT_EQ(a->allocate(1 << 20), general);
  void* other = a->allocate(1 << 20);
  EXPECT_NE(other, step);
  {
    const StepMemory memory(*a);
    EXPECT_EQ(a->allocate(1 << 20), step);
    a->deallocate(step);
    a->deallocate(general);
    void* second = a->allocate(1 << 20);
    EXPECT_EQ(second, step) << "what came from the general pool goes back there, whenever that is";
    a->deallocate(second);
  }
  EXPECT_EQ(a->allocate(1 << 20), general);
  a->deallocate(general);
  a->deallocate(other);

  EXPECT_EQ(a->keep(Allocator::Keep::everything), Allocator::Keep::nothing);
  a->release_cached();
  EXPECT_EQ(a->stats().reserved, 3 << 20);
  EXPECT_EQ(a->keep(Allocator::Keep::step_pool), Allocator::Keep::everything);
  a->release_cached();
  EXPECT_EQ(a->stats().reserved, 1 << 20);
  a->keep(Allocator::Keep::nothing);
  a->release_cached();
  EXPECT_EQ(a->stats().reserved, 0);
}

TEST(Allocator, WhoeverHasMemoryToGiveIsAskedLast) {
  const auto a = make_cpu_allocator();
  a->set_limit(10 << 20);
  void* held = a->allocate(6 << 20);
  int asked = 0;
  a->set_reclaim([&] {
    ++asked;
    if (held == nullptr) return false;
    a->deallocate(held);
    held = nullptr;
    return true;
  });
  void* small = a->allocate(4 << 20);
  a->deallocate(small);
  small = a->allocate(3 << 20);  // the cached block is too large, but there to be given back
  EXPECT_EQ(asked, 0);
  void* large = a->allocate(7 << 20);
  EXPECT_EQ(asked, 1);
  EXPECT_THROW(a->allocate(1 << 20), OutOfMemory);
  EXPECT_EQ(asked, 2);
  a->set_reclaim({});
  EXPECT_THROW(a->allocate(1 << 20), OutOfMemory);
  a->deallocate(small);
  a->deallocate(large);
}

// Nothing is stored, everything is counted.
TEST(CountingContext, CountsAndReadsZeros) {
  const auto ctx = make_counting_context(DeviceType::cpu);
  EXPECT_FALSE(ctx->computes());
  {
    const Tensor huge = Tensor::zeros(*ctx, {1 << 20, 1 << 20}, DType::f32);
    EXPECT_EQ(ctx->allocator()->stats().current, int64_t{4} << 40);
    const Tensor three = Tensor::from(*ctx, std::vector<float>{1, 2, 3}, {3});
    EXPECT_EQ(three.to_floats(*ctx), std::vector<float>(3, 0.0F));
  }
  EXPECT_EQ(ctx->allocator()->stats().current, 0);
  EXPECT_EQ(make_counting_context(DeviceType::cuda)->allocator()->stats().current, kGpuWorkspaceBytes);
}

}  // namespace
}  // namespace matvlm
