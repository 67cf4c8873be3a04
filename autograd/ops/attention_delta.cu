// What every attention backward starts with: delta[h, t] = <grad_out, out> of head h of token t. Where rows can be
// moved 16 bytes at a time a block takes whole rows of a few tokens, so that no thread is idle whatever the width of a
// head, and writes the sums of a head side by side.
#include <algorithm>
#include <type_traits>

#include "autograd/ops/attention_device.h"
#include "autograd/ops/mma.cuh"
#include "core/cuda_context.h"

namespace matvlm::attention_kernels {
namespace {

constexpr int kDeltaThreads = 256;
constexpr int kLanes = 16;         // threads of one head of one token
constexpr int kRowTokens = 8;      // of a block: their sums of a head are one sector of memory
constexpr int kBatch = 4;          // tokens whose loads are under way together
constexpr int kRowThreads = 512;   // at most
constexpr int kRowVectors = 1024;  // at most, of 16 bytes

__device__ inline float product(unsigned x, unsigned y, float sum) {
  sum = fmaf(mma::low_half(x), mma::low_half(y), sum);
  return fmaf(mma::high_half(x), mma::high_half(y), sum);
}

__device__ inline float product(const uint4& x, const uint4& y) {
  return product(x.w, y.w, product(x.z, y.z, product(x.y, y.y, product(x.x, y.x, 0.0F))));
}

// Row of the shared sums: odd, so that the tokens of a head lie in different banks.
__host__ __device__ inline int sums_stride(int vectors) { return vectors | 1; }

// Dynamic shared memory: [kRowTokens, sums_stride] floats, a sum for each vector of 8 columns.
__global__ void __launch_bounds__(kRowThreads) delta_rows_kernel(AttentionBackwardArgs<bf16, float> a) {
  extern __shared__ float sums[];
  const AttentionForwardArgs<bf16, float>& f = a.forward;
  const int heads = static_cast<int>(f.shape.heads);
  const int head_vectors = static_cast<int>(f.shape.head_dim) / 8;
  const int vectors = heads * head_vectors;
  const int stride = sums_stride(vectors);
  const int threads = static_cast<int>(blockDim.x);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRowTokens;
  const int count = static_cast<int>(min(f.tokens - first, static_cast<int64_t>(kRowTokens)));
  for (int v = static_cast<int>(threadIdx.x); v < vectors; v += threads) {
    const bf16* grad_out = a.grad_out + first * a.grad_out_stride + v * 8;
    const bf16* out = f.out + first * f.out_stride + v * 8;
#pragma unroll
    for (int begin = 0; begin < kRowTokens; begin += kBatch) {
      uint4 x[kBatch], y[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const bool valid = begin + i < count;
        x[i] = valid ? *reinterpret_cast<const uint4*>(grad_out + (begin + i) * a.grad_out_stride) : uint4{};
        y[i] = valid ? *reinterpret_cast<const uint4*>(out + (begin + i) * f.out_stride) : uint4{};
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) sums[(begin + i) * stride + v] = product(x[i], y[i]);
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < heads * kRowTokens; i += threads) {
    const int token = i % kRowTokens;
    const int head = i / kRowTokens;
    if (token >= count) continue;
    const float* from = sums + token * stride + head * head_vectors;
    float sum = 0.0F;
    for (int k = 0; k < head_vectors; ++k) sum += from[k];
    a.delta[head * f.tokens + first + token] = sum;
  }
}

// Rows of any width and alignment.
template <class T>
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
  for (int d = lane; d < p; d += kLanes) sum = fmaf(static_cast<float>(grad_out[d]), static_cast<float>(out[d]), sum);
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffU, sum, step);
  if (inside && lane == 0) a.delta[h * f.tokens + t] = sum;
}

// False, and nothing launched, where rows cannot be moved 16 bytes at a time or are too long.
bool launch_delta_rows(Context& ctx, const AttentionBackwardArgs<bf16, float>& args) {
  const AttentionForwardArgs<bf16, float>& f = args.forward;
  const auto aligned = [](const bf16* data, int64_t stride) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 8 == 0;
  };
  const int64_t vectors = f.shape.heads * f.shape.head_dim / 8;
  if (f.shape.head_dim % 8 != 0 || vectors > kRowVectors || !aligned(args.grad_out, args.grad_out_stride) ||
      !aligned(f.out, f.out_stride)) {
    return false;
  }
  const auto threads = static_cast<unsigned>(std::min<int64_t>((vectors + 31) / 32 * 32, kRowThreads));
  const auto blocks = static_cast<unsigned>((f.tokens + kRowTokens - 1) / kRowTokens);
  const size_t shared = sizeof(float) * kRowTokens * static_cast<size_t>(sums_stride(static_cast<int>(vectors)));
  delta_rows_kernel<<<blocks, threads, shared, cuda_stream(ctx)>>>(args);
  MATVLM_LAUNCH_CHECK();
  return true;
}

}  // namespace

template <class T>
void row_deltas(Context& ctx, const AttentionBackwardArgs<T, float>& args) {
  const AttentionForwardArgs<T, float>& f = args.forward;
  const int64_t threads = f.tokens * f.shape.heads * kLanes;
  if (threads == 0) return;
  if constexpr (std::is_same_v<T, bf16>) {
    if (launch_delta_rows(ctx, args)) return;
  }
  const auto blocks = static_cast<unsigned>((threads + kDeltaThreads - 1) / kDeltaThreads);
  delta_kernel<T><<<blocks, kDeltaThreads, 0, cuda_stream(ctx)>>>(args);
  MATVLM_LAUNCH_CHECK();
}
template void row_deltas<float>(Context&, const AttentionBackwardArgs<float, float>&);
template void row_deltas<bf16>(Context&, const AttentionBackwardArgs<bf16, float>&);

}  // namespace matvlm::attention_kernels
