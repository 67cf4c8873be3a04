// AdamW on the GPU: one launch over the whole arenas. Padding is all zeros and stays so.
#include "autograd/ops/adamw_device.h"
#include "autograd/ops/adamw_math.h"
#include "autograd/ops/elementwise.cuh"

namespace matvlm {
namespace {

constexpr int kThreads = 256;

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

__global__ void adamw_kernel(AdamWArenas a, AdamWFactors<float> factors) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < a.n; i += step) {
    const bool decay = a.decay[segment_of(a, i)] != 0;
    float m = a.moment1[i];
    float v = a.moment2[i];
    const float p = adamw_element(factors, decay, a.master[i], a.grad[i], m, v);
    a.master[i] = p;
    a.moment1[i] = m;
    a.moment2[i] = v;
    if (a.compute != nullptr) a.compute[i] = bf16(p);
  }
}

}  // namespace

void adamw_cuda(Context& ctx, const AdamWArenas& arenas, const AdamWStep& step) {
  if (arenas.n == 0) return;
  adamw_kernel<<<grid_for(arenas.n, kThreads), kThreads, 0, cuda_stream(ctx)>>>(arenas, adamw_factors<float>(step));
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm
