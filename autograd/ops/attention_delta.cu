// What every attention backward starts with: delta[h, t] = <grad_out, out> of head h of token t.
#include "autograd/ops/attention_device.h"
#include "autograd/ops/mma.cuh"
#include "core/cuda_context.h"

namespace matvlm::attention_kernels {
namespace {

constexpr int kDeltaThreads = 256;
constexpr int kLanes = 16;  // threads of one head of one token; 8 columns each at most 128

__device__ inline float product(unsigned x, unsigned y, float sum) {
  sum = fmaf(mma::low_half(x), mma::low_half(y), sum);
  return fmaf(mma::high_half(x), mma::high_half(y), sum);
}

template <class T, bool kVectors>
__global__ void __launch_bounds__(kDeltaThreads) delta_kernel(AttentionBackwardArgs<T, float> a) {
  const AttentionForwardArgs<T, float>& f = a.forward;
  const int64_t item = (static_cast<int64_t>(blockIdx.x) * kDeltaThreads + threadIdx.x) / kLanes;
  const bool inside = item < f.tokens * f.shape.heads;
  const int64_t t = inside ? item / f.shape.heads : 0;
  const int64_t h = inside ? item % f.shape.heads : 0;
  const int p = static_cast<int>(f.shape.head_dim);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const T* grad_out = a.grad_out + t * a.grad_out_stride + h * p;
  const T* out = f.out + t * f.out_stride + h * p;
  float sum = 0.0F;
  if constexpr (kVectors) {
    if (lane * 8 < p) {
      const uint4 x = *reinterpret_cast<const uint4*>(grad_out + lane * 8);
      const uint4 y = *reinterpret_cast<const uint4*>(out + lane * 8);
      sum = product(x.w, y.w, product(x.z, y.z, product(x.y, y.y, product(x.x, y.x, 0.0F))));
    }
  } else {
    for (int d = lane; d < p; d += kLanes) sum = fmaf(static_cast<float>(grad_out[d]), static_cast<float>(out[d]), sum);
  }
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffU, sum, step);
  if (inside && lane == 0) a.delta[h * f.tokens + t] = sum;
}

}  // namespace

template <class T>
void row_deltas(Context& ctx, const AttentionBackwardArgs<T, float>& args) {
  const AttentionForwardArgs<T, float>& f = args.forward;
  const int64_t threads = f.tokens * f.shape.heads * kLanes;
  if (threads == 0) return;
  const auto blocks = static_cast<unsigned>((threads + kDeltaThreads - 1) / kDeltaThreads);
  const auto vectors = [&](const T* data, int64_t stride) {
    return sizeof(T) == 2 && reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 8 == 0;
  };
  const bool aligned =
      f.shape.head_dim % 8 == 0 && vectors(args.grad_out, args.grad_out_stride) && vectors(f.out, f.out_stride);
  const auto kernel = aligned ? delta_kernel<T, sizeof(T) == 2> : delta_kernel<T, false>;
  kernel<<<blocks, kDeltaThreads, 0, cuda_stream(ctx)>>>(args);
  MATVLM_LAUNCH_CHECK();
}
template void row_deltas<float>(Context&, const AttentionBackwardArgs<float, float>&);
template void row_deltas<bf16>(Context&, const AttentionBackwardArgs<bf16, float>&);

}  // namespace matvlm::attention_kernels
