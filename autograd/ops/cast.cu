// Conversion between f32 and bf16 on the GPU.
#include "autograd/ops/cast_device.h"
#include "autograd/ops/elementwise.cuh"

namespace matvlm {
namespace {

template <class From, class To>
__global__ void cast_kernel(int64_t n, const From* src, To* dst) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    store_float(dst + i, load_float(src + i));
  }
}

}  // namespace

void cast_cuda(Context& ctx, int64_t n, const void* src, DType src_dtype, void* dst, DType dst_dtype) {
  if (n == 0) return;
  constexpr int kThreads = 256;
  dispatch_float("cast", src_dtype, [&](auto from) {
    dispatch_float("cast", dst_dtype, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      cast_kernel<<<grid_for(n, kThreads), kThreads, 0, cuda_stream(ctx)>>>(n, static_cast<const From*>(src),
                                                                            static_cast<To*>(dst));
    });
  });
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm
