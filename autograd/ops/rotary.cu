// Rotary embedding on a GPU: one block per token, whose cosines and sines lie in shared memory.
#include "autograd/ops/rotary.h"
#include "core/cuda_context.h"

namespace matvlm {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxPairs = 128;

struct Frequencies {
  double value[kMaxPairs];  // radians per position
};

template <class T>
__global__ void rotary_kernel(RotaryArgs<T> a, Frequencies frequencies) {
  __shared__ float cosines[kMaxPairs];
  __shared__ float sines[kMaxPairs];
  const int64_t t = blockIdx.x;
  const int half = static_cast<int>(a.rotary_dims / 2);
  const int head_dim = static_cast<int>(a.head_dim);
  for (int i = threadIdx.x; i < half; i += kThreads) {
    // Reduced to [-pi, pi] in double, so that sincosf sees a small argument with one float rounding.
    constexpr double kTwoPi = 6.283185307179586476925;
    const double angle = static_cast<double>(a.positions[t]) * frequencies.value[i];
    const double reduced = fma(-rint(angle / kTwoPi), kTwoPi, angle);
    sincosf(static_cast<float>(reduced), &sines[i], &cosines[i]);
    if (a.inverse) sines[i] = -sines[i];
  }
  __syncthreads();
  const T* x = a.x + t * a.x_stride;
  T* y = a.y + t * a.y_stride;
  const int columns = static_cast<int>(a.heads) * head_dim;
  for (int c = threadIdx.x; c < columns; c += kThreads) {
    const int d = c % head_dim;
    float value = static_cast<float>(x[c]);
    if (d < half) {
      value = value * cosines[d] - sines[d] * static_cast<float>(x[c + half]);
    } else if (d < 2 * half) {
      value = value * cosines[d - half] + sines[d - half] * static_cast<float>(x[c - half]);
    }
    if (a.accumulate) value += static_cast<float>(y[c]);
    y[c] = static_cast<T>(value);
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
  rotary_kernel<<<static_cast<unsigned>(args.tokens), kThreads, 0, cuda_stream(ctx)>>>(args, frequencies);
  MATVLM_LAUNCH_CHECK();
}
template void rotary_cuda<float>(Context&, const RotaryArgs<float>&);
template void rotary_cuda<bf16>(Context&, const RotaryArgs<bf16>&);

}  // namespace matvlm
