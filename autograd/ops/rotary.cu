// Rotary embedding on a GPU: one block per token, whose cosines and sines lie in shared memory.
#include "autograd/ops/pack_rows.cuh"
#include "autograd/ops/rotary.h"

namespace matvlm {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxPairs = 128;

struct Frequencies {
  double value[kMaxPairs];  // radians per position
};

// V neighbouring pairs of a head: dims i ... i + V - 1 and as many from i + R/2 on.
template <class T, int V>
struct Pairs {
  int64_t column = 0;  // of the first dim
  int pair = 0;
  float first[V], second[V];

  __device__ void load(const RotaryArgs<T>& a, const T* x, int index, int half) {
    const int packs = half / V;
    const int head = index / packs;
    pair = (index - head * packs) * V;
    column = static_cast<int64_t>(head) * a.head_dim + pair;
    load_pack(first, x + column);
    load_pack(second, x + column + half);
  }
  __device__ void turn_and_store(const RotaryArgs<T>& a, T* y, const float* cosines, const float* sines, int half) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float c = cosines[pair + i];
      const float s = sines[pair + i];
      const float x = first[i];
      first[i] = x * c - s * second[i];
      second[i] = second[i] * c + s * x;
    }
    store_pack(y + column, first, a.accumulate);
    store_pack(y + column + half, second, a.accumulate);
  }
};

// A thread turns whole pairs, so y may be x. What it loads first is on its way while the angles are computed.
template <class T, int V>
__global__ void __launch_bounds__(kThreads) rotary_kernel(RotaryArgs<T> a, Frequencies frequencies) {
  __shared__ float cosines[kMaxPairs];
  __shared__ float sines[kMaxPairs];
  const int64_t t = blockIdx.x;
  const int half = static_cast<int>(a.rotary_dims / 2);
  const int packs = static_cast<int>(a.heads) * (half / V);
  const T* x = a.x + t * a.x_stride;
  T* y = a.y + t * a.y_stride;
  const int own = static_cast<int>(threadIdx.x);
  Pairs<T, V> pairs;
  if (own < packs) pairs.load(a, x, own, half);
  for (int i = own; i < half; i += kThreads) {
    // Reduced to [-pi, pi] in double, so that sincosf sees a small argument with one float rounding.
    constexpr double kTwoPi = 6.283185307179586476925;
    const double angle = static_cast<double>(a.positions[t]) * frequencies.value[i];
    const double reduced = fma(-rint(angle / kTwoPi), kTwoPi, angle);
    sincosf(static_cast<float>(reduced), &sines[i], &cosines[i]);
    if (a.inverse) sines[i] = -sines[i];
  }
  __syncthreads();
  if (own < packs) pairs.turn_and_store(a, y, cosines, sines, half);
  for (int index = own + kThreads; index < packs; index += kThreads) {
    pairs.load(a, x, index, half);
    pairs.turn_and_store(a, y, cosines, sines, half);
  }
}

// Dims R and above of every head, which pass through, where y is not x.
template <class T>
__global__ void pass_kernel(RotaryArgs<T> a) {
  const int64_t t = blockIdx.x;
  const int rest = static_cast<int>(a.head_dim - a.rotary_dims);
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(a.heads) * rest; i += kThreads) {
    const int64_t column = static_cast<int64_t>(i / rest) * a.head_dim + a.rotary_dims + i % rest;
    float value = static_cast<float>(a.x[t * a.x_stride + column]);
    T* to = a.y + t * a.y_stride + column;
    if (a.accumulate) value += static_cast<float>(*to);
    *to = static_cast<T>(value);
  }
}

}  // namespace

template <class T>
void rotary_cuda(Context& ctx, const RotaryArgs<T>& args) {
  if (args.tokens == 0) return;
  check(args.rotary_dims <= 2 * kMaxPairs, "[rotary] rotary dims on a GPU: found ", args.rotary_dims,
        ", expected at most ", 2 * kMaxPairs);
  Frequencies frequencies{};
  for (int64_t i = 0; i < args.rotary_dims / 2; ++i) {
    frequencies.value[i] = rotary_frequency(args, i);
  }
  const auto blocks = static_cast<unsigned>(args.tokens);
  constexpr int kWide = kPackWidth<T>;
  const bool wide = args.rotary_dims / 2 % kWide == 0 && args.head_dim % kWide == 0 &&
                    rows_aligned(args.x, args.x_stride, kWide) && rows_aligned(args.y, args.y_stride, kWide);
  if (wide && args.rotary_dims > 0) {
    rotary_kernel<T, kWide><<<blocks, kThreads, 0, cuda_stream(ctx)>>>(args, frequencies);
    MATVLM_LAUNCH_CHECK();
  } else if (args.rotary_dims > 0) {
    rotary_kernel<T, 1><<<blocks, kThreads, 0, cuda_stream(ctx)>>>(args, frequencies);
    MATVLM_LAUNCH_CHECK();
  }
  if (args.x == args.y || args.rotary_dims == args.head_dim) return;
  pass_kernel<<<blocks, kThreads, 0, cuda_stream(ctx)>>>(args);
  MATVLM_LAUNCH_CHECK();
}
template void rotary_cuda<float>(Context&, const RotaryArgs<float>&);
template void rotary_cuda<bf16>(Context&, const RotaryArgs<bf16>&);

}  // namespace matvlm
