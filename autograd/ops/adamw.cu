// AdamW on the GPU: one launch over the whole arenas, 16 bytes a load. Padding is all zeros and stays so.
#include "autograd/ops/adamw_device.h"
#include "autograd/ops/adamw_math.h"
#include "autograd/ops/elementwise.cuh"
#include "autograd/ops/pack.cuh"

namespace matvlm {
namespace {

constexpr int kAdamThreads = 256;
constexpr int kWidth = 4;  // elements of a pack; segments begin at multiples of it
constexpr int kPacks = 2;  // a thread has under way
constexpr int64_t kBlockElements = int64_t{kAdamThreads} * kWidth * kPacks;

// Index of the segment that holds element i.
__device__ int64_t segment_of(const AdamWArenas& a, int64_t i) {
  int64_t low = 0;
  int64_t high = a.segments;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (a.begin[middle] <= i) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

__global__ void __launch_bounds__(kAdamThreads) adamw_kernel(AdamWArenas a, AdamWFactors<float> factors) {
  using Floats = Pack<float, kWidth>;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kBlockElements;
  const int64_t begin = first + threadIdx.x * kWidth;
  Floats g[kPacks], p[kPacks], m[kPacks], v[kPacks];
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int64_t i = begin + int64_t{k} * kAdamThreads * kWidth;
    const bool valid = i < a.n;
    g[k] = Floats::load_if(valid, a.grad + i);
    p[k] = Floats::load_if(valid, a.master + i);
    m[k] = Floats::load_if(valid, a.moment1 + i);
    v[k] = Floats::load_if(valid, a.moment2 + i);
  }
  // Most blocks lie in one segment.
  const int64_t segment = segment_of(a, first);
  const bool whole = segment + 1 >= a.segments || a.begin[segment + 1] >= first + kBlockElements;
  const bool block_decay = a.decay[segment] != 0;
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int64_t i = begin + int64_t{k} * kAdamThreads * kWidth;
    if (i >= a.n) return;
    const bool decay = whole ? block_decay : a.decay[segment_of(a, i)] != 0;
    float gs[kWidth], ps[kWidth], ms[kWidth], vs[kWidth];
    g[k].unpack(gs);
    p[k].unpack(ps);
    m[k].unpack(ms);
    v[k].unpack(vs);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) ps[j] = adamw_element(factors, decay, ps[j], gs[j], ms[j], vs[j]);
    Floats::pack(ps).store(a.master + i);
    Floats::pack(ms).store(a.moment1 + i);
    Floats::pack(vs).store(a.moment2 + i);
    if (a.compute != nullptr) Pack<bf16, kWidth>::pack(ps).store(a.compute + i);
  }
}

}  // namespace

void adamw_cuda(Context& ctx, const AdamWArenas& a, const AdamWStep& step) {
  if (a.n == 0) return;
  check(a.n % kWidth == 0, "[adamw] arenas of ", a.n, " elements, expected a multiple of ", kWidth);
  const auto blocks = static_cast<unsigned>((a.n + kBlockElements - 1) / kBlockElements);
  adamw_kernel<<<blocks, kAdamThreads, 0, cuda_stream(ctx)>>>(a, adamw_factors<float>(step));
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm
