// Copy kernels and their timing.
#include "tests/bench/copy.h"

#include <algorithm>

#include "tests/bench/timing.cuh"

namespace matvlm::bench {
namespace {

constexpr int kThreads = 256;

// Copies `count` vectors of 16 bytes, kLoads of a thread under way together. kStream: they are not to stay in the
// cache.
template <int kLoads, bool kStream>
__global__ void __launch_bounds__(kThreads) copy_kernel(const uint4* from, uint4* to, int64_t count) {
  constexpr int64_t kBlock = static_cast<int64_t>(kThreads) * kLoads;
  for (int64_t first = blockIdx.x * kBlock; first < count; first += gridDim.x * kBlock) {
    uint4 held[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int64_t at = first + i * kThreads + threadIdx.x;
      if (at < count) held[i] = kStream ? __ldcs(from + at) : __ldg(from + at);
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int64_t at = first + i * kThreads + threadIdx.x;
      if (at >= count) continue;
      if constexpr (kStream) {
        __stcs(to + at, held[i]);
      } else {
        to[at] = held[i];
      }
    }
  }
}

// blocks_per_multiprocessor 0: one round of the loop to a block.
template <int kLoads, bool kStream>
void copy(Context& ctx, const Tensor& from, const Tensor& to, int64_t blocks_per_multiprocessor) {
  const int64_t count = from.numel() / static_cast<int64_t>(sizeof(uint4));
  const int64_t rounds = (count + kThreads * kLoads - 1) / (kThreads * kLoads);
  const int64_t blocks =
      blocks_per_multiprocessor == 0 ? rounds : ctx.cuda()->multiprocessors() * blocks_per_multiprocessor;
  copy_kernel<kLoads, kStream><<<static_cast<unsigned>(blocks), kThreads, 0, cuda_stream(ctx)>>>(
      static_cast<const uint4*>(from.raw()), static_cast<uint4*>(to.raw()), count);
  MATVLM_LAUNCH_CHECK();
}

}  // namespace

std::vector<CopyResult> copy_bandwidths(Context& ctx) {
  constexpr int64_t kBytes = 1LL << 30;
  const Tensor buffers[2] = {Tensor::zeros(ctx, {kBytes}, DType::u8), Tensor::zeros(ctx, {kBytes}, DType::u8)};
  std::vector<CopyResult> results;
  const auto time = [&](const char* name, auto&& run) {
    const double ms = median_ms(ctx, 2, [&](int i) { run(buffers[i % 2], buffers[1 - i % 2]); });
    results.push_back({name, 2.0 * static_cast<double>(kBytes) / ms * 1e-6});
  };
  time("driver", [&](const Tensor& from, const Tensor& to) {
    MATVLM_CUDA_CHECK(
        cudaMemcpyAsync(to.raw(), from.raw(), static_cast<size_t>(kBytes), cudaMemcpyDeviceToDevice, cuda_stream(ctx)));
  });
  time("1 load", [&](const Tensor& from, const Tensor& to) { copy<1, false>(ctx, from, to, 0); });
  time("4 loads", [&](const Tensor& from, const Tensor& to) { copy<4, false>(ctx, from, to, 0); });
  time("4 loads, streaming", [&](const Tensor& from, const Tensor& to) { copy<4, true>(ctx, from, to, 0); });
  time("8 loads", [&](const Tensor& from, const Tensor& to) { copy<8, false>(ctx, from, to, 0); });
  time("8 loads, streaming", [&](const Tensor& from, const Tensor& to) { copy<8, true>(ctx, from, to, 0); });
  time("4 loads, resident", [&](const Tensor& from, const Tensor& to) { copy<4, false>(ctx, from, to, 8); });
  time("8 loads, resident", [&](const Tensor& from, const Tensor& to) { copy<8, false>(ctx, from, to, 4); });
  std::stable_sort(results.begin(), results.end(),
                   [](const CopyResult& a, const CopyResult& b) { return a.gb_s > b.gb_s; });
  return results;
}

double copy_bandwidth(Context& ctx) { return copy_bandwidths(ctx).front().gb_s; }

}  // namespace matvlm::bench
