// CUDA kernels of the causal convolution with SiLU. A thread owns V neighbouring channels (one 16- or 8-byte access)
// and walks along tokens with the last W inputs in registers. V is 1 where rows are not aligned, and for 2 or 3 taps.
// Backward is one pass: each warp recomputes the W-1 preactivation gradients behind its tokens instead of sharing them
// through memory. Weight gradients: one partial sum per tile and channel, then an ordered sum over tiles.
#include <type_traits>

#include "autograd/ops/conv1d.h"
#include "autograd/ops/pack.cuh"
#include "autograd/ops/sequence_lookup.cuh"
#include "core/cuda_context.h"

namespace matvlm {
namespace {

constexpr int kForwardThreads = 64;
constexpr int64_t kForwardTokens = 32;  // per thread
constexpr int64_t kStepTokens = 16;     // sequences up to this length: state and tokens in one launch

constexpr int kWarp = 32;
constexpr int kBackwardWarps = 4;  // of a block; each takes kBackwardTokens of the tile, all the same channels
constexpr int64_t kBackwardTokens = 32;
constexpr int64_t kBackwardTile = kBackwardWarps * kBackwardTokens;
// The inputs, gradients, weights and sums of 8 channels would not leave registers for enough loads in flight.
constexpr int kBackwardChannels = 4;

template <class E, int V, int W>
struct Taps {
  float weight[W][V];
  float bias[V];
  __device__ Taps(const Conv1dArgs<E, float>& a, int64_t c) {
#pragma unroll
    for (int j = 0; j < W; ++j) {
      float flat[V];  // of the V x W values at channel c
      Pack<E, V>::load(a.weight + c * W + j * V).unpack(flat);
#pragma unroll
      for (int i = 0; i < V; ++i) weight[(j * V + i) % W][(j * V + i) / W] = flat[i];
    }
    Pack<E, V>::load(a.bias + c).unpack(bias);
#pragma unroll
    for (int w = 0; w < W; ++w) keep(weight[w]);
    keep(bias);
  }
};

// The last W values of V channels, by time modulo W: slot i holds the token that was put there last, slot i + 1 the one
// W - 1 tokens before it. Slots are constants once the loops over them are unrolled.
template <int V, int W>
struct Ring {
  float slot[W][V];
};

template <class E, int V, int W>
__device__ void preactivation(const Taps<E, V, W>& taps, const Ring<V, W>& x, int newest, float (&pre)[V]) {
#pragma unroll
  for (int v = 0; v < V; ++v) {
    pre[v] = taps.bias[v];
#pragma unroll
    for (int w = 0; w < W; ++w) pre[v] = fmaf(taps.weight[w][v], x.slot[(newest + 1 + w) % W][v], pre[v]);
  }
}

// Inputs at time t of sequence b, which starts at `begin`; before it those of the initial state.
template <class E, int V, int W>
__device__ Pack<E, V> input_at(const Conv1dArgs<E, float>& a, int64_t b, int64_t begin, int64_t t, int64_t c) {
  if (t >= begin) return Pack<E, V>::load(a.x + t * a.x_stride + c);
  if (a.initial == nullptr) return {};
  const int64_t slot = a.slots != nullptr ? a.slots[b] : b;
  return Pack<E, V>::load(a.initial + (slot * (W - 1) + t - begin + W - 1) * a.channels + c);
}

// The W-1 inputs before time t into slots 1 ... W-1, so that the token at t belongs in slot 0.
template <class E, int V, int W>
__device__ void load_window(const Conv1dArgs<E, float>& a, int64_t b, int64_t begin, int64_t t, int64_t c,
                            Ring<V, W>& x) {
#pragma unroll
  for (int i = 1; i < W; ++i) input_at<E, V, W>(a, b, begin, t - W + i, c).unpack(x.slot[i]);
}

// The last W-1 inputs, oldest first, into rows [W-1, C].
template <class E, int V, int W>
__device__ void store_window(const Conv1dArgs<E, float>& a, const Ring<V, W>& x, int newest, int64_t c, E* rows) {
#pragma unroll
  for (int i = 0; i < W - 1; ++i) Pack<E, V>::pack(x.slot[(newest + 2 + i) % W]).store(rows + i * a.channels + c);
}

// Up to W tokens from t on, all of them when kFull; their loads first.
template <bool kFull, class E, int V, int W>
__device__ void forward_batch(const Conv1dArgs<E, float>& a, const Taps<E, V, W>& taps, int64_t t, int count, int64_t c,
                              Ring<V, W>& x) {
  const E* from = a.x + t * a.x_stride + c;
  E* to = a.y + t * a.y_stride + c;
  Pack<E, V> in[W];
#pragma unroll
  for (int i = 0; i < W; ++i) in[i] = Pack<E, V>::load_if(kFull || i < count, from + i * a.x_stride);
#pragma unroll
  for (int i = 0; i < W; ++i) {
    if (!kFull && i >= count) break;
    in[i].unpack(x.slot[i]);
    keep(x.slot[i]);
    float y[V];
    preactivation(taps, x, i, y);
#pragma unroll
    for (int v = 0; v < V; ++v) y[v] *= sigmoid_for<E>(y[v]);
    Pack<E, V>::pack(y).store(to + i * a.y_stride);
    if (a.every != nullptr) store_window<E, V, W>(a, x, i, c, a.every + (t + i) * (W - 1) * a.channels);
  }
}

// Tokens [t, stop) of one sequence; x holds the inputs before t.
template <class E, int V, int W>
__device__ void forward_tokens(const Conv1dArgs<E, float>& a, const Taps<E, V, W>& taps, int64_t t, int64_t stop,
                               int64_t c, Ring<V, W>& x) {
  for (; t + W <= stop; t += W) forward_batch<true>(a, taps, t, W, c, x);
  if (t < stop) forward_batch<false>(a, taps, t, static_cast<int>(stop - t), c, x);
}

// First channel of this thread when the blocks' columns are numbered before their tiles.
template <int V>
__device__ int64_t first_channel(unsigned columns, int threads) {
  return (static_cast<int64_t>(blockIdx.x % columns) * threads + threadIdx.x) * V;
}

template <class E, int V, int W>
__global__ void __launch_bounds__(kForwardThreads) forward_kernel(Conv1dArgs<E, float> a, unsigned columns) {
  const int64_t c = first_channel<V>(columns, kForwardThreads);
  if (c >= a.channels) return;
  const int64_t first = static_cast<int64_t>(blockIdx.x / columns) * kForwardTokens;
  const int64_t last = min(first + kForwardTokens, a.tokens);
  const Taps<E, V, W> taps(a, c);
  int64_t b = sequence_of(a.cu, a.batch, first);
  for (int64_t t = first; t < last;) {
    while (t >= a.cu[b + 1]) ++b;
    const int64_t stop = min(last, a.cu[b + 1]);
    Ring<V, W> x;
    load_window<E, V, W>(a, b, a.cu[b], t, c, x);
    forward_tokens(a, taps, t, stop, c, x);
    t = stop;
  }
}

// A block owns a sequence: with kTokens its tokens, then its final state, which may overwrite the initial one (a thread
// reads and writes the same channels, and reads them first).
template <class E, int V, int W, bool kTokens>
__global__ void __launch_bounds__(kForwardThreads) sequence_kernel(Conv1dArgs<E, float> a, unsigned columns) {
  const int64_t c = first_channel<V>(columns, kForwardThreads);
  if (c >= a.channels) return;
  const int64_t b = blockIdx.x / columns;
  const int64_t begin = a.cu[b];
  const int64_t end = a.cu[b + 1];
  Ring<V, W> x;
  if constexpr (kTokens) {
    load_window<E, V, W>(a, b, begin, begin, c, x);
    forward_tokens(a, Taps<E, V, W>(a, c), begin, end, c, x);
  }
  load_window<E, V, W>(a, b, begin, end, c, x);
  const int64_t slot = a.slots != nullptr ? a.slots[b] : b;
  store_window<E, V, W>(a, x, W - 1, c, a.final_state + slot * (W - 1) * a.channels);
}

// One thread's tokens of one tile, sequence by sequence.
template <class E, int V, int W>
struct Backward {
  const Conv1dArgs<E, float>& a;
  const Taps<E, V, W> taps;
  float sums[W + 1][V] = {};  // of dpre * x for each tap, and of dpre
  Ring<V, W> x, dpre;
  // Of the next token: x, dy, and dx of the token W-1 behind it, whose last dpre that is.
  const E *in = nullptr, *din = nullptr;
  E* out = nullptr;

  __device__ Backward(const Conv1dArgs<E, float>& args, int64_t c) : a(args), taps(args, c) {}

  // Tokens [first, stop) of a sequence that ends at `end`. dx of the last ones needs dpre of up to W-1 tokens more.
  __device__ void tokens(int64_t b, int64_t first, int64_t stop, int64_t end, int64_t c) {
    load_window<E, V, W>(a, b, a.cu[b], first, c, x);
    dpre = {};
    in = a.x + first * a.x_stride + c;
    din = a.dy + first * a.dy_stride + c;
    out = a.dx + (first - (W - 1)) * a.dx_stride + c;
    const int length = static_cast<int>(stop - first);
    const int known = static_cast<int>(min(end, stop + W - 1) - first);
    for (int done = 0; done < length + W - 1; done += W) {
      if (done > 0 && done + W <= length) {
        batch<true>(done, length, known);
      } else {
        batch<false>(done, length, known);
      }
    }
  }

  // Tokens done ... done + W - 1, counted from the first: those below `known` have a dpre, those below `length` are
  // this thread's. kInner: all of them and the W-1 before them are.
  template <bool kInner>
  __device__ void batch(int done, int length, int known) {
    Pack<E, V> x_in[W];
    Pack<E, V> dy_in[W];
#pragma unroll
    for (int i = 0; i < W; ++i) {
      x_in[i] = Pack<E, V>::load_if(kInner || done + i < known, in + i * a.x_stride);
      dy_in[i] = Pack<E, V>::load_if(kInner || done + i < known, din + i * a.dy_stride);
    }
#pragma unroll
    for (int i = 0; i < W; ++i) {
      x_in[i].unpack(x.slot[i]);
      keep(x.slot[i]);
      preactivation_gradient(i, dy_in[i]);
      if (!kInner && done + i >= known) {
#pragma unroll
        for (int v = 0; v < V; ++v) dpre.slot[i][v] = 0.0F;
      }
      if (kInner || done + i < length) add_sums(i);
      const bool ready = kInner || (done + i >= W - 1 && done + i < length + W - 1);
      if (ready && a.dx != nullptr) store_dx(i, out + i * a.dx_stride);
    }
    in += W * a.x_stride;
    din += W * a.dy_stride;
    out += W * a.dx_stride;
  }

  __device__ void preactivation_gradient(int newest, const Pack<E, V>& dy) {
    float pre[V];
    preactivation(taps, x, newest, pre);
    float(&d)[V] = dpre.slot[newest];
    dy.unpack(d);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const float s = sigmoid_for<E>(pre[v]);
      d[v] *= s * fmaf(pre[v], 1.0F - s, 1.0F);
    }
  }
  __device__ void add_sums(int newest) {
    const float(&d)[V] = dpre.slot[newest];
#pragma unroll
    for (int v = 0; v < V; ++v) {
#pragma unroll
      for (int w = 0; w < W; ++w) sums[w][v] = fmaf(d[v], x.slot[(newest + 1 + w) % W][v], sums[w][v]);
      sums[W][v] += d[v];
    }
  }
  __device__ void store_dx(int newest, E* to) const {
    float dx[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      dx[v] = 0.0F;
#pragma unroll
      for (int w = 0; w < W; ++w) dx[v] = fmaf(taps.weight[W - 1 - w][v], dpre.slot[(newest + 1 + w) % W][v], dx[v]);
    }
    Pack<E, V>::store_or_add(to, dx, a.dx_accumulate);
  }
};

// partial: [tiles, W+1, C], or null when no weight gradient is wanted.
template <class E, int V, int W>
__global__ void __launch_bounds__(kWarp* kBackwardWarps)
    backward_kernel(Conv1dArgs<E, float> a, unsigned columns, float* partial) {
  constexpr int kChannels = kWarp * V;
  __shared__ alignas(16) float shared[kBackwardWarps][W + 1][kChannels];
  const int64_t block_channel = static_cast<int64_t>(blockIdx.x % columns) * kChannels;
  const int64_t tile = blockIdx.x / columns;
  const int lane = static_cast<int>(threadIdx.x);
  const int warp = static_cast<int>(threadIdx.y);
  const int64_t c = block_channel + lane * V;
  const int64_t first = tile * kBackwardTile + warp * kBackwardTokens;
  const int64_t last = min(first + kBackwardTokens, a.tokens);
  if (c < a.channels && first < last) {
    Backward<E, V, W> work(a, c);
    int64_t b = sequence_of(a.cu, a.batch, first);
    for (int64_t t = first; t < last;) {
      while (t >= a.cu[b + 1]) ++b;
      const int64_t end = a.cu[b + 1];
      work.tokens(b, t, min(last, end), end, c);
      t = min(last, end);
    }
#pragma unroll
    for (int k = 0; k < (W + 1) * V; ++k) shared[warp][k / V][lane * V + k % V] = work.sums[k / V][k % V];
  } else {
#pragma unroll
    for (int k = 0; k < (W + 1) * V; ++k) shared[warp][k / V][lane * V + k % V] = 0.0F;
  }
  if (partial == nullptr) return;
  __syncthreads();
  const int channel = warp * kWarp + lane;
  if (channel >= kChannels || block_channel + channel >= a.channels) return;
#pragma unroll
  for (int w = 0; w <= W; ++w) {
    float sum = 0.0F;
#pragma unroll
    for (int i = 0; i < kBackwardWarps; ++i) sum += shared[i][w][channel];
    partial[(tile * (W + 1) + w) * a.channels + block_channel + channel] = sum;
  }
}

// Adds the sums over tiles of partial [tiles, W+1, C] to dweight [C, W] and dbias [C].
__global__ void weight_gradient_kernel(const float* partial, int64_t tiles, int64_t channels, int64_t width,
                                       float* dweight, float* dbias) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kSumColumns + threadIdx.x;
  const float sum = sum_tiles(partial, tiles, (width + 1) * channels, column);
  const int64_t w = column / channels;
  const int64_t c = column % channels;
  if (threadIdx.y != 0 || w > width) return;
  if (w < width && dweight != nullptr) dweight[c * width + w] += sum;
  if (w == width && dbias != nullptr) dbias[c] += sum;
}

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

// Calls f with the channels per thread and the taps.
template <int V, class F>
void with_shape(int64_t width, bool aligned, F&& f) {
  if (width == 4 && aligned) return f(Constant<V>{}, Constant<4>{});
  if (width == 4) return f(Constant<1>{}, Constant<4>{});
  if (width == 3) return f(Constant<1>{}, Constant<3>{});
  check(width == 2, "[conv1d] found ", width, " taps, expected 2 to ", kConvMaxWidth);
  f(Constant<1>{}, Constant<2>{});
}

template <class E>
bool weights_aligned(const Conv1dArgs<E, float>& a, int V) {
  return a.channels % V == 0 && rows_aligned(a.weight, 0, V) && rows_aligned(a.bias, 0, V);
}

unsigned count_blocks(int64_t n, int64_t per_block) { return static_cast<unsigned>((n + per_block - 1) / per_block); }

}  // namespace

template <class E>
void conv1d_forward_cuda(Context& ctx, const Conv1dArgs<E, float>& a) {
  if (a.channels == 0) return;
  constexpr int kWidth = kPackWidth<E>;
  const bool aligned = weights_aligned(a, kWidth) && rows_aligned(a.x, a.x_stride, kWidth) &&
                       rows_aligned(a.y, a.y_stride, kWidth) && rows_aligned(a.initial, 0, kWidth) &&
                       rows_aligned(a.final_state, 0, kWidth) && rows_aligned(a.every, 0, kWidth);
  with_shape<kWidth>(a.width, aligned, [&](auto channels, auto width) {
    constexpr int V = channels();
    constexpr int W = width();
    const cudaStream_t stream = cuda_stream(ctx);
    const unsigned columns = count_blocks(a.channels, V * kForwardThreads);
    const auto sequences = static_cast<unsigned>(a.batch) * columns;
    const bool wants_final = a.final_state != nullptr && a.batch > 0;
    if (wants_final && a.longest <= kStepTokens) {
      sequence_kernel<E, V, W, true><<<sequences, kForwardThreads, 0, stream>>>(a, columns);
      MATVLM_LAUNCH_CHECK();
      return;
    }
    if (a.tokens > 0) {
      const unsigned blocks = count_blocks(a.tokens, kForwardTokens) * columns;
      forward_kernel<E, V, W><<<blocks, kForwardThreads, 0, stream>>>(a, columns);
      MATVLM_LAUNCH_CHECK();
    }
    if (wants_final) {  // after the tokens, whose blocks read the initial state
      sequence_kernel<E, V, W, false><<<sequences, kForwardThreads, 0, stream>>>(a, columns);
      MATVLM_LAUNCH_CHECK();
    }
  });
}

template <class E>
void conv1d_backward_cuda(Context& ctx, const Conv1dArgs<E, float>& a) {
  if (a.channels == 0 || a.tokens == 0) return;
  constexpr int kWidth = kBackwardChannels;
  const bool aligned = weights_aligned(a, kWidth) && rows_aligned(a.x, a.x_stride, kWidth) &&
                       rows_aligned(a.dy, a.dy_stride, kWidth) && rows_aligned(a.dx, a.dx_stride, kWidth);
  const bool weights = a.dweight != nullptr || a.dbias != nullptr;
  const int64_t tiles = (a.tokens + kBackwardTile - 1) / kBackwardTile;
  const int64_t sums = (a.width + 1) * a.channels;
  const Tensor partial = Tensor::empty(ctx, {weights ? tiles : 0, sums}, DType::f32);
  with_shape<kWidth>(a.width, aligned, [&](auto channels, auto width) {
    constexpr int V = channels();
    constexpr int W = width();
    const unsigned columns = count_blocks(a.channels, V * kWarp);
    backward_kernel<E, V, W>
        <<<static_cast<unsigned>(tiles) * columns, dim3(kWarp, kBackwardWarps), 0, cuda_stream(ctx)>>>(
            a, columns, weights ? partial.data<float>() : nullptr);
    MATVLM_LAUNCH_CHECK();
  });
  if (!weights) return;
  weight_gradient_kernel<<<sum_blocks(sums), dim3(kSumColumns, kSumRows), 0, cuda_stream(ctx)>>>(
      partial.data<float>(), tiles, a.channels, a.width, a.dweight, a.dbias);
  MATVLM_LAUNCH_CHECK();
}

template void conv1d_forward_cuda(Context&, const Conv1dArgs<float, float>&);
template void conv1d_forward_cuda(Context&, const Conv1dArgs<bf16, float>&);
template void conv1d_backward_cuda(Context&, const Conv1dArgs<float, float>&);
template void conv1d_backward_cuda(Context&, const Conv1dArgs<bf16, float>&);

}  // namespace matvlm
