// Elementwise sums on the GPU.
#include "autograd/ops/add_device.h"
#include "autograd/ops/elementwise.cuh"

namespace matvlm {
namespace {

template <class T>
__global__ void add_kernel(AddDeviceArgs args) {
  const int64_t n = args.rows * args.cols;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    const int64_t row = i / args.cols;
    const int64_t col = i - row * args.cols;
    T* dst = static_cast<T*>(args.dst) + row * args.dst_stride + col;
    float sum = args.accumulate ? load_float(dst) : 0.0F;
#pragma unroll
    for (int k = 0; k < kMaxAddTerms; ++k) {
      if (k < args.count) sum += load_float(static_cast<const T*>(args.terms[k]) + row * args.strides[k] + col);
    }
    store_float(dst, sum);
  }
}

}  // namespace

void add_cuda(Context& ctx, const AddDeviceArgs& args) {
  const int64_t n = args.rows * args.cols;
  if (n == 0) return;
  constexpr int kThreads = 256;
  dispatch_float("add", args.dtype, [&](auto type) {
    using T = decltype(type);
    add_kernel<T><<<grid_for(n, kThreads), kThreads, 0, cuda_stream(ctx)>>>(args);
  });
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm
