// CUDA kernels of the causal convolution with SiLU. A thread owns one channel and a tile of tokens. Weight gradients:
// one partial sum per tile and channel, then an ordered sum over tiles.
#include "autograd/ops/conv1d.h"
#include "autograd/ops/sequence_lookup.cuh"
#include "core/cuda_context.h"

namespace matvlm {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kTileTokens = 32;

__device__ float sigmoid(float x) { return 1.0F / (1.0F + expf(-x)); }

// Input of channel c at time t of the sequence that starts at `begin`; before it, that of the initial state.
template <class E>
__device__ float input_at(const Conv1dArgs<E, float>& a, int64_t b, int64_t begin, int64_t t, int64_t c) {
  if (t >= begin) return static_cast<float>(a.x[t * a.x_stride + c]);
  if (a.initial == nullptr) return 0.0F;
  const int64_t slot = a.slots != nullptr ? a.slots[b] : b;
  return static_cast<float>(a.initial[(slot * (a.width - 1) + (t - begin + a.width - 1)) * a.channels + c]);
}

template <class E>
__device__ void load_weights(const Conv1dArgs<E, float>& a, int64_t c, float* weight) {
  for (int w = 0; w < kConvMaxWidth; ++w) {
    weight[w] = w < a.width ? static_cast<float>(a.weight[c * a.width + w]) : 0.0F;
  }
}

template <class E>
__global__ void forward_kernel(Conv1dArgs<E, float> a) {
  const int64_t c = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (c >= a.channels) return;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTileTokens;
  const int64_t last = min(first + kTileTokens, a.tokens);
  float weight[kConvMaxWidth];
  load_weights(a, c, weight);
  const float bias = static_cast<float>(a.bias[c]);
  int64_t b = sequence_of(a.cu, a.batch, first);
  for (int64_t t = first; t < last; ++t) {
    while (t >= a.cu[b + 1]) ++b;
    float pre = bias;
    for (int w = 0; w < a.width; ++w) {
      const float x = input_at(a, b, a.cu[b], t - (a.width - 1) + w, c);
      pre += weight[w] * x;
      if (a.every != nullptr && w > 0) a.every[(t * (a.width - 1) + w - 1) * a.channels + c] = E(x);
    }
    a.y[t * a.y_stride + c] = E(pre * sigmoid(pre));
  }
}

// The last W-1 inputs of each sequence. A kernel of its own after the forward one, because it may overwrite the initial
// state that the forward kernel reads; a thread reads its values before it writes.
template <class E>
__global__ void final_state_kernel(Conv1dArgs<E, float> a) {
  const int64_t c = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (c >= a.channels) return;
  const int64_t b = blockIdx.x;
  const int64_t keep = a.width - 1;
  const int64_t begin = a.cu[b];
  const int64_t end = a.cu[b + 1];
  float window[kConvMaxWidth];
  for (int i = 0; i < kConvMaxWidth; ++i) window[i] = i < keep ? input_at(a, b, begin, end - keep + i, c) : 0.0F;
  const int64_t slot = a.slots != nullptr ? a.slots[b] : b;
  for (int i = 0; i < kConvMaxWidth; ++i) {
    if (i < keep) a.final_state[(slot * keep + i) * a.channels + c] = E(window[i]);
  }
}

// dpre [T, C] and, per tile, the sums of dpre * x (rows 0..W-1) and dpre (row W) over its tokens: partial [tiles, W+1,
// C].
template <class E>
__global__ void preactivation_gradient_kernel(Conv1dArgs<E, float> a, float* dpre, float* partial) {
  const int64_t c = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (c >= a.channels) return;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTileTokens;
  const int64_t last = min(first + kTileTokens, a.tokens);
  float weight[kConvMaxWidth];
  load_weights(a, c, weight);
  const float bias = static_cast<float>(a.bias[c]);
  float sum[kConvMaxWidth + 1] = {};
  int64_t b = sequence_of(a.cu, a.batch, first);
  for (int64_t t = first; t < last; ++t) {
    while (t >= a.cu[b + 1]) ++b;
    float x[kConvMaxWidth];
    float pre = bias;
    for (int w = 0; w < kConvMaxWidth; ++w) {
      x[w] = w < a.width ? input_at(a, b, a.cu[b], t - (a.width - 1) + w, c) : 0.0F;
      pre += weight[w] * x[w];
    }
    const float s = sigmoid(pre);
    const float d = static_cast<float>(a.dy[t * a.dy_stride + c]) * s * (1.0F + pre * (1.0F - s));
    dpre[t * a.channels + c] = d;
    for (int w = 0; w < kConvMaxWidth; ++w) sum[w] += d * x[w];
    sum[kConvMaxWidth] += d;
  }
  float* out = partial + static_cast<int64_t>(blockIdx.x) * (a.width + 1) * a.channels + c;
  for (int w = 0; w < kConvMaxWidth; ++w) {
    if (w < a.width) out[w * a.channels] = sum[w];
  }
  out[a.width * a.channels] = sum[kConvMaxWidth];
}

template <class E>
__global__ void dx_kernel(Conv1dArgs<E, float> a, const float* dpre) {
  const int64_t c = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (c >= a.channels) return;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTileTokens;
  const int64_t last = min(first + kTileTokens, a.tokens);
  float weight[kConvMaxWidth];
  load_weights(a, c, weight);
  int64_t b = sequence_of(a.cu, a.batch, first);
  for (int64_t t = first; t < last; ++t) {
    while (t >= a.cu[b + 1]) ++b;
    float sum = 0.0F;
    for (int w = 0; w < a.width; ++w) {
      const int64_t later = t + (a.width - 1) - w;
      if (later < a.cu[b + 1]) sum += weight[w] * dpre[later * a.channels + c];
    }
    E* dx = a.dx + t * a.dx_stride + c;
    *dx = E(a.dx_accumulate ? static_cast<float>(*dx) + sum : sum);
  }
}

// Adds the partial sums of a channel, tile after tile.
template <class E>
__global__ void weight_gradient_kernel(Conv1dArgs<E, float> a, const float* partial, int64_t tiles) {
  const int64_t c = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (c >= a.channels) return;
  const int64_t w = blockIdx.x;
  float* out = w < a.width ? a.dweight : a.dbias;
  if (out == nullptr) return;
  float sum = 0.0F;
  for (int64_t i = 0; i < tiles; ++i) sum += partial[(i * (a.width + 1) + w) * a.channels + c];
  out[w < a.width ? c * a.width + w : c] += sum;
}

unsigned channel_blocks(int64_t channels) { return static_cast<unsigned>((channels + kThreads - 1) / kThreads); }
int64_t token_tiles(int64_t tokens) { return (tokens + kTileTokens - 1) / kTileTokens; }

}  // namespace

template <class E>
void conv1d_forward_cuda(Context& ctx, const Conv1dArgs<E, float>& a) {
  if (a.channels == 0) return;
  const unsigned columns = channel_blocks(a.channels);
  if (a.tokens > 0) {
    const dim3 grid(static_cast<unsigned>(token_tiles(a.tokens)), columns);
    forward_kernel<E><<<grid, kThreads, 0, cuda_stream(ctx)>>>(a);
    MATVLM_LAUNCH_CHECK();
  }
  if (a.final_state != nullptr && a.batch > 0) {
    final_state_kernel<E><<<dim3(static_cast<unsigned>(a.batch), columns), kThreads, 0, cuda_stream(ctx)>>>(a);
    MATVLM_LAUNCH_CHECK();
  }
}

template <class E>
void conv1d_backward_cuda(Context& ctx, const Conv1dArgs<E, float>& a) {
  if (a.channels == 0 || a.tokens == 0) return;
  const int64_t tiles = token_tiles(a.tokens);
  const Tensor dpre = Tensor::empty(ctx, {a.tokens, a.channels}, DType::f32);
  const Tensor partial = Tensor::empty(ctx, {tiles, a.width + 1, a.channels}, DType::f32);
  const unsigned columns = channel_blocks(a.channels);
  const dim3 grid(static_cast<unsigned>(tiles), columns);
  preactivation_gradient_kernel<E>
      <<<grid, kThreads, 0, cuda_stream(ctx)>>>(a, dpre.data<float>(), partial.data<float>());
  MATVLM_LAUNCH_CHECK();
  if (a.dx != nullptr) {
    dx_kernel<E><<<grid, kThreads, 0, cuda_stream(ctx)>>>(a, dpre.data<float>());
    MATVLM_LAUNCH_CHECK();
  }
  if (a.dweight != nullptr || a.dbias != nullptr) {
    weight_gradient_kernel<E><<<dim3(static_cast<unsigned>(a.width + 1), columns), kThreads, 0, cuda_stream(ctx)>>>(
        a, partial.data<float>(), tiles);
    MATVLM_LAUNCH_CHECK();
  }
}

template void conv1d_forward_cuda(Context&, const Conv1dArgs<float, float>&);
template void conv1d_forward_cuda(Context&, const Conv1dArgs<bf16, float>&);
template void conv1d_backward_cuda(Context&, const Conv1dArgs<float, float>&);
template void conv1d_backward_cuda(Context&, const Conv1dArgs<bf16, float>&);

}  // namespace matvlm
