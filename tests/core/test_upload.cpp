// Host values on their way to the device: the host's memory is free to change at once, whatever the size, and nothing
// is lost where uploads wait for each other.
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "core/allocator.h"
#include "core/gpu_upload.h"
#include "core/tensor.h"

namespace matvlm {
namespace {

std::vector<int32_t> numbered(int64_t n, int32_t start) {
  std::vector<int32_t> out(static_cast<size_t>(n));
  for (size_t i = 0; i < out.size(); ++i) out[i] = start + static_cast<int32_t>(i);
  return out;
}

void check_uploads(Context& ctx) {
  // Around the size from which on the GPU's uploads go aside (2^16 numbers) and that of a segment of the ring that they
  // pass through (2^20 numbers), many small ones, and one that is larger than the ring.
  std::vector<int64_t> sizes = {0, 1, 15, 16, 17, 3, 5 << 20};
  for (const int64_t size : {1 << 16, 1 << 20}) {
    for (const int64_t more : {-1, 0, 1}) sizes.push_back(size + more);
  }
  for (int i = 0; i < 300; ++i) sizes.push_back(1 + i * 37 % 5000);
  for (int i = 0; i < 20; ++i) sizes.push_back(60000 + i * 7919 % 12000);
  std::vector<Tensor> tensors;
  std::vector<int32_t> host;
  for (size_t i = 0; i < sizes.size(); ++i) {
    host = numbered(sizes[i], static_cast<int32_t>(i) * 1000);
    tensors.push_back(Tensor::from(ctx, host, {sizes[i]}));
    host.assign(host.size(), -1);
  }
  for (size_t i = 0; i < sizes.size(); ++i) {
    ASSERT_EQ(tensors[i].to_vector<int32_t>(ctx), numbered(sizes[i], static_cast<int32_t>(i) * 1000)) << i;
  }
}

// Values on their way beside the context's work do not overtake it: not what still reads the memory they get, nor what
// wrote there before.
void check_order(Context& ctx) {
  constexpr int64_t kSize = 1 << 20;
  constexpr int64_t kRounds = 12;
  const Tensor busy = Tensor::empty(ctx, {64 << 20}, DType::u8);
  std::vector<Tensor> kept;
  for (int64_t i = 0; i < kRounds; ++i) {
    // As often as not in the block of the round before.
    const Tensor values = Tensor::from(ctx, numbered(kSize, static_cast<int32_t>(i)), {kSize});
    for (int k = 0; k < 20; ++k) busy.zero(ctx);
    kept.push_back(values.clone(ctx));
    values.zero(ctx);
  }
  for (int64_t i = 0; i < kRounds; ++i) {
    ASSERT_EQ(kept[static_cast<size_t>(i)].to_vector<int32_t>(ctx), numbered(kSize, static_cast<int32_t>(i))) << i;
  }
}

TEST(Upload, ValuesArrive) { check_uploads(*make_cpu_context(1)); }
TEST(Upload, InOrder) { check_order(*make_cpu_context(1)); }
TEST(UploadCuda, ValuesArrive) { check_uploads(*make_cuda_context(0)); }
TEST(UploadCuda, InOrder) { check_order(*make_cuda_context(0)); }

// The counting context's memory is the GPU's, with many bytes and with few.
TEST(UploadCuda, MemoryIsCounted) {
  const auto gpu = make_cuda_context(0);
  const auto counting = make_counting_context(DeviceType::cuda);
  for (const int64_t size : {kLeastUploadAside / 4 - 1, kLeastUploadAside / 4, kLeastUploadAside}) {
    int64_t grown[2] = {};
    for (const auto& ctx : {gpu.get(), counting.get()}) {
      const int64_t before = ctx->allocator()->stats().current;
      const Tensor t = Tensor::from(*ctx, numbered(size, 0), {size});
      grown[ctx == gpu.get() ? 0 : 1] = ctx->allocator()->stats().current - before;
    }
    EXPECT_EQ(grown[0], grown[1]) << size;
  }
}

}  // namespace
}  // namespace matvlm
