// Random values on the GPU.
#include "autograd/ops/elementwise.cuh"
#include "autograd/ops/random_fill_device.h"
#include "autograd/ops/random_fill_math.h"

namespace matvlm {
namespace {

template <class T>
__global__ void fill_kernel(int64_t n, double center, double bound, Rng rng, T* dst) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    store_float(dst + i, random_value(center, bound, rng, i));
  }
}

}  // namespace

void fill_random_cuda(Context& ctx, int64_t n, double center, double bound, const Rng& rng, void* dst, DType dtype) {
  constexpr int kThreads = 256;
  dispatch_float("fill_random", dtype, [&](auto type) {
    using T = decltype(type);
    fill_kernel<<<grid_for(n, kThreads), kThreads, 0, cuda_stream(ctx)>>>(n, center, bound, rng, static_cast<T*>(dst));
  });
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm
