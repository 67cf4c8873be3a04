// Work beside a context's own: what order it has, that it gets memory of its own, and what it may not use.
#include "core/aside.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "core/error.h"
#include "core/tensor.h"

namespace matvlm {
namespace {

// Large enough that the device is still at it when the host has gone on.
constexpr int64_t kNumbers = 32 << 20;

Tensor filled(Context& ctx, int value) {
  const Tensor t = Tensor::empty(ctx, {kNumbers}, DType::i32);
  ctx.fill_bytes(t.raw(), value, kNumbers * 4);
  return t;
}

bool all_are(Context& ctx, const Tensor& t, int value) {
  const std::vector<int32_t> values = t.to_vector<int32_t>(ctx);
  for (const int32_t v : values) {
    if (v != value * 0x01010101) return false;
  }
  return true;
}

// Values go main -> aside -> main many times over the same three tensors; a copy out of order shows.
void check_order(Context& ctx) {
  const Tensor first = filled(ctx, 0), second = filled(ctx, 0), third = filled(ctx, 0);
  for (int i = 1; i <= 20; ++i) {
    ctx.fill_bytes(first.raw(), i, kNumbers * 4);
    {
      const Aside aside(ctx, Aside::Behind::all);
      second.copy_from(ctx, first);
    }
    {
      const Aside aside(ctx, Aside::Behind::aside);
      third.copy_from(ctx, second);
      EXPECT_TRUE(all_are(ctx, third.slice_rows(kNumbers - 100, kNumbers), i)) << "the host waits for aside work";
    }
    ctx.join_aside();
    ctx.fill_bytes(second.raw(), 0x7f, kNumbers * 4);  // behind the copy
    EXPECT_TRUE(all_are(ctx, third, i));
  }
}

void check_memory(Context& ctx) {
  const void* freed = nullptr;
  {
    const Tensor t = Tensor::empty(ctx, {kNumbers}, DType::i32);
    freed = t.raw();
  }
  const void* own = nullptr;
  {
    const Aside aside(ctx, Aside::Behind::all);
    const Tensor t = Tensor::empty(ctx, {kNumbers}, DType::i32);
    own = t.raw();
    EXPECT_NE(own, freed) << "the first queue may still use it";
  }
  const Tensor general = Tensor::empty(ctx, {kNumbers}, DType::i32);
  EXPECT_EQ(general.raw(), freed);
  const Aside aside(ctx, Aside::Behind::all);
  EXPECT_EQ(Tensor::empty(ctx, {kNumbers}, DType::i32).raw(), own);
}

TEST(Aside, Order) { check_order(*make_cpu_context(2)); }
TEST(Aside, Memory) { check_memory(*make_cpu_context(2)); }

TEST(AsideCuda, Order) { check_order(*make_cuda_context(0)); }
TEST(AsideCuda, Memory) { check_memory(*make_cuda_context(0)); }
TEST(AsideCuda, HostValuesArrive) {
  const std::unique_ptr<Context> ctx = make_cuda_context(0);
  std::vector<int32_t> host;
  const Aside aside(*ctx, Aside::Behind::all);
  for (int32_t i = 0; i < 5; ++i) {  // more than the ring of aside uploads holds
    host.assign(1 << 20, i);
    const Tensor t = Tensor::from(*ctx, host, {1 << 20});
    EXPECT_EQ(t.to_vector<int32_t>(*ctx), host);
  }
}
TEST(AsideCuda, NoneInsideAnother) {
  const std::unique_ptr<Context> ctx = make_cuda_context(0);
  const Aside aside(*ctx, Aside::Behind::all);
  EXPECT_THROW(Aside(*ctx, Aside::Behind::all), Error);
  EXPECT_THROW(ctx->join_aside(), Error);
}

}  // namespace
}  // namespace matvlm
