// CUDA kernels of the causal convolution with SiLU. A thread owns V neighbouring channels (one 16- or 8-byte access)
// and walks along tokens with the last W inputs in registers. V is 1 where rows are not aligned, and for 2 or 3 taps.
// Backward is one pass: each warp recomputes the W-1 preactivation gradients behind its tokens instead of sharing them
// through memory. Weight gradients: one partial sum per tile and channel, then an ordered sum over tiles.
#include <type_traits>

#include "autograd/ops/column_sums.cuh"
#include "autograd/ops/conv1d.h"
#include "autograd/ops/conv1d_feed.cuh"
#include "autograd/ops/pack.cuh"
#include "autograd/ops/sequence_lookup.cuh"
#include "autograd/ops/tiling.cuh"
#include "core/cuda_context.h"

namespace matvlm {
namespace {

constexpr int kWarp = 32;
constexpr int kForwardThreads = 64;
constexpr int64_t kStepTokens = 16;  // sequences up to this length: state and tokens in one launch

// One way of running the forward kernel: channels per thread, loads one batch ahead or not, resident blocks to leave
// registers for, tokens per block (0: as many as fill the multiprocessors).
template <int kVector, bool kPrefetch_, int kBlocks_, int64_t kTokens_>
struct ForwardPlan {
  static constexpr int V = kVector;
  static constexpr bool kPrefetch = kPrefetch_;
  static constexpr int kBlocks = kBlocks_;
  static constexpr int64_t kTokens = kTokens_;
};

// One way of running the backward kernel: channels per thread, warps of a block (each takes a part of the tile's
// tokens, all the same channels), stages in shared memory through which inputs come (0: loaded when asked for),
// resident blocks to leave registers for, tokens per warp (0: as many as fill the multiprocessors).
template <int kVector, int kWarps_, int kStages_, int kBlocks_, int64_t kTokens_>
struct BackwardPlan {
  static constexpr int V = kVector;
  static constexpr int kWarps = kWarps_;
  static constexpr int kStages = kStages_;
  static constexpr int kBlocks = kBlocks_;
  static constexpr int64_t kTokens = kTokens_;
};

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

// W tokens from t on, or the first `count` of them when !kFull.
template <bool kFull, class E, int V, int W>
__device__ void load_batch(const Conv1dArgs<E, float>& a, int64_t t, int count, int64_t c, Pack<E, V> (&in)[W]) {
  const E* from = a.x + t * a.x_stride + c;
#pragma unroll
  for (int i = 0; i < W; ++i) in[i] = Pack<E, V>::load_if(kFull || i < count, from + i * a.x_stride);
}

template <bool kFull, class E, int V, int W>
__device__ void forward_batch(const Conv1dArgs<E, float>& a, const Taps<E, V, W>& taps, int64_t t, int count, int64_t c,
                              const Pack<E, V> (&in)[W], Ring<V, W>& x) {
  E* to = a.y + t * a.y_stride + c;
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
  Pack<E, V> in[W];
  for (; t + W <= stop; t += W) {
    load_batch<true>(a, t, W, c, in);
    forward_batch<true>(a, taps, t, W, c, in, x);
  }
  if (t >= stop) return;
  const int rest = static_cast<int>(stop - t);
  load_batch<false>(a, t, rest, c, in);
  forward_batch<false>(a, taps, t, rest, c, in, x);
}

// The same with the loads of a batch under way while the one before it is computed.
template <class E, int V, int W>
__device__ void forward_tokens_ahead(const Conv1dArgs<E, float>& a, const Taps<E, V, W>& taps, int64_t t, int64_t stop,
                                     int64_t c, Ring<V, W>& x) {
  Pack<E, V> ahead[W];
  load_batch<false>(a, t, static_cast<int>(min(stop - t, static_cast<int64_t>(W))), c, ahead);
  for (; t + W <= stop; t += W) {
    Pack<E, V> in[W];
#pragma unroll
    for (int i = 0; i < W; ++i) in[i] = ahead[i];
    if (t + 2 * W <= stop) {
      load_batch<true>(a, t + W, W, c, ahead);
    } else {
      load_batch<false>(a, t + W, static_cast<int>(stop - t - W), c, ahead);
    }
    forward_batch<true>(a, taps, t, W, c, in, x);
  }
  if (t < stop) forward_batch<false>(a, taps, t, static_cast<int>(stop - t), c, ahead, x);
}

// First channel of this thread when the blocks' columns are numbered before their tiles.
template <int V>
__device__ int64_t first_channel(unsigned columns, int threads) {
  return (static_cast<int64_t>(blockIdx.x % columns) * threads + threadIdx.x) * V;
}

template <class E, int W, class Plan>
__global__ void __launch_bounds__(kForwardThreads, Plan::kBlocks)
    forward_kernel(Conv1dArgs<E, float> a, unsigned columns, int64_t tile_tokens) {
  constexpr int V = Plan::V;
  const int64_t c = first_channel<V>(columns, kForwardThreads);
  if (c >= a.channels) return;
  const int64_t first = static_cast<int64_t>(blockIdx.x / columns) * tile_tokens;
  const int64_t last = min(first + tile_tokens, a.tokens);
  const Taps<E, V, W> taps(a, c);
  int64_t b = sequence_of(a.cu, a.batch, first);
  for (int64_t t = first; t < last;) {
    while (t >= a.cu[b + 1]) ++b;
    const int64_t stop = min(last, a.cu[b + 1]);
    Ring<V, W> x;
    load_window<E, V, W>(a, b, a.cu[b], t, c, x);
    if constexpr (Plan::kPrefetch) {
      forward_tokens_ahead(a, taps, t, stop, c, x);
    } else {
      forward_tokens(a, taps, t, stop, c, x);
    }
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
template <class E, int V, int W, class Feed>
struct Backward {
  const Conv1dArgs<E, float>& a;
  const Taps<E, V, W> taps;
  float sums[W + 1][V] = {};  // of dpre * x for each tap, and of dpre
  Ring<V, W> x, dpre;
  Feed feed;
  E* out = nullptr;  // dx of the token W-1 behind the next one, which completes it

  __device__ Backward(const Conv1dArgs<E, float>& args, int64_t c, typename Feed::Shared& shared)
      : a(args), taps(args, c), feed(shared) {}

  // Tokens [first, stop) of a sequence that ends at `end`. dx of the last ones needs dpre of up to W-1 tokens more.
  __device__ void tokens(int64_t b, int64_t first, int64_t stop, int64_t end, int64_t c) {
    const int length = static_cast<int>(stop - first);
    const int known = static_cast<int>(min(end, stop + W - 1) - first);
    feed.start({a.x + first * a.x_stride + c, a.dy + first * a.dy_stride + c, static_cast<int>(a.x_stride),
                static_cast<int>(a.dy_stride), known});
    load_window<E, V, W>(a, b, a.cu[b], first, c, x);
    dpre = {};
    out = a.dx + (first - (W - 1)) * a.dx_stride + c;
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
    const auto in = feed.template take<kInner>();
#pragma unroll
    for (int i = 0; i < W; ++i) {
      in.x[i].unpack(x.slot[i]);
      keep(x.slot[i]);
      preactivation_gradient(i, in.dy[i]);
      if (!kInner && done + i >= known) {
#pragma unroll
        for (int v = 0; v < V; ++v) dpre.slot[i][v] = 0.0F;
      }
      if (kInner || done + i < length) add_sums(i);
      const bool ready = kInner || (done + i >= W - 1 && done + i < length + W - 1);
      if (ready && a.dx != nullptr) store_dx(i, out + i * a.dx_stride);
    }
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

template <class E, int W, class Plan>
using FeedOf =
    std::conditional_t<(Plan::kStages > 0), StagedFeed<E, Plan::V, W, Plan::kStages>, RegisterFeed<E, Plan::V, W>>;

// partial: [tiles, W+1, C], or null when no weight gradient is wanted.
template <class E, int W, class Plan>
__global__ void __launch_bounds__(kWarp* Plan::kWarps, Plan::kBlocks)
    backward_kernel(Conv1dArgs<E, float> a, unsigned columns, int64_t warp_tokens, float* partial) {
  constexpr int V = Plan::V;
  constexpr int kWarps = Plan::kWarps;
  constexpr int kChannels = kWarp * V;
  using Feed = FeedOf<E, W, Plan>;
  __shared__ alignas(16) float shared[kWarps][W + 1][kChannels];
  __shared__ typename Feed::Shared staged[kWarps];
  const int64_t block_channel = static_cast<int64_t>(blockIdx.x % columns) * kChannels;
  const int64_t tile = blockIdx.x / columns;
  const int lane = static_cast<int>(threadIdx.x);
  const int warp = static_cast<int>(threadIdx.y);
  const int64_t c = block_channel + lane * V;
  const int64_t first = (tile * kWarps + warp) * warp_tokens;
  const int64_t last = min(first + warp_tokens, a.tokens);
  if (c < a.channels && first < last) {
    Backward<E, V, W, Feed> work(a, c, staged[warp]);
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
  for (int channel = warp * kWarp + lane; channel < kChannels; channel += kWarp * kWarps) {
    if (block_channel + channel >= a.channels) return;
#pragma unroll
    for (int w = 0; w <= W; ++w) {
      float sum = 0.0F;
#pragma unroll
      for (int i = 0; i < kWarps; ++i) sum += shared[i][w][channel];
      partial[(tile * (W + 1) + w) * a.channels + block_channel + channel] = sum;
    }
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

// Calls f with the taps.
template <class F>
void with_width(int64_t width, F&& f) {
  if (width == 4) return f(Constant<4>{});
  if (width == 3) return f(Constant<3>{});
  check(width == 2, "[conv1d] found ", width, " taps, expected 2 to ", kConvMaxWidth);
  f(Constant<2>{});
}

template <class E>
bool weights_aligned(const Conv1dArgs<E, float>& a, int V) {
  return a.channels % V == 0 && rows_aligned(a.weight, 0, V) && rows_aligned(a.bias, 0, V);
}

template <class E>
bool forward_aligned(const Conv1dArgs<E, float>& a, int V) {
  return weights_aligned(a, V) && rows_aligned(a.x, a.x_stride, V) && rows_aligned(a.y, a.y_stride, V) &&
         rows_aligned(a.initial, 0, V) && rows_aligned(a.final_state, 0, V) && rows_aligned(a.every, 0, V);
}

template <class E>
bool backward_aligned(const Conv1dArgs<E, float>& a, int V) {
  return weights_aligned(a, V) && rows_aligned(a.x, a.x_stride, V) && rows_aligned(a.dy, a.dy_stride, V) &&
         rows_aligned(a.dx, a.dx_stride, V);
}

unsigned count_blocks(int64_t n, int64_t per_block) { return static_cast<unsigned>((n + per_block - 1) / per_block); }

template <class E, int W, class Plan>
void launch_forward(Context& ctx, const Conv1dArgs<E, float>& a) {
  const unsigned columns = count_blocks(a.channels, Plan::V * kForwardThreads);
  const auto kernel = forward_kernel<E, W, Plan>;
  int64_t tile = Plan::kTokens;
  if (tile == 0) {
    tile = balanced_walk({.tokens = a.tokens, .columns = columns, .granule = W},
                         ctx.cuda()->resident_blocks(reinterpret_cast<const void*>(kernel), kForwardThreads));
  }
  const unsigned blocks = count_blocks(a.tokens, tile) * columns;
  kernel<<<blocks, kForwardThreads, 0, cuda_stream(ctx)>>>(a, columns, tile);
  MATVLM_LAUNCH_CHECK();
}

template <class E, int V, int W, bool kTokens>
void launch_sequences(Context& ctx, const Conv1dArgs<E, float>& a) {
  const unsigned columns = count_blocks(a.channels, V * kForwardThreads);
  const auto blocks = static_cast<unsigned>(a.batch) * columns;
  sequence_kernel<E, V, W, kTokens><<<blocks, kForwardThreads, 0, cuda_stream(ctx)>>>(a, columns);
  MATVLM_LAUNCH_CHECK();
}

template <class E, int V, int W, class Plan>
void forward(Context& ctx, const Conv1dArgs<E, float>& a) {
  const bool wants_final = a.final_state != nullptr && a.batch > 0;
  if (wants_final && a.longest <= kStepTokens) return launch_sequences<E, V, W, true>(ctx, a);
  if (a.tokens > 0) launch_forward<E, W, Plan>(ctx, a);
  if (wants_final) launch_sequences<E, V, W, false>(ctx, a);  // after the tokens, whose blocks read the initial state
}

template <class E, int W, class Plan>
void launch_backward(Context& ctx, const Conv1dArgs<E, float>& a) {
  const unsigned columns = count_blocks(a.channels, Plan::V * kWarp);
  const auto kernel = backward_kernel<E, W, Plan>;
  int64_t tokens = Plan::kTokens;
  if (tokens == 0) {
    tokens = balanced_walk({.tokens = a.tokens, .columns = columns, .walks = Plan::kWarps, .granule = W},
                           ctx.cuda()->resident_blocks(reinterpret_cast<const void*>(kernel), kWarp * Plan::kWarps));
  }
  const unsigned tiles = count_blocks(a.tokens, Plan::kWarps * tokens);
  const bool weights = a.dweight != nullptr || a.dbias != nullptr;
  const int64_t sums = (W + 1) * a.channels;
  const Tensor partial = Tensor::empty(ctx, {weights ? static_cast<int64_t>(tiles) : 0, sums}, DType::f32);
  float* sums_of_tiles = weights ? partial.data<float>() : nullptr;
  kernel<<<tiles * columns, dim3(kWarp, Plan::kWarps), 0, cuda_stream(ctx)>>>(a, columns, tokens, sums_of_tiles);
  MATVLM_LAUNCH_CHECK();
  if (!weights) return;
  weight_gradient_kernel<<<sum_blocks(sums), dim3(kSumColumns, kSumRows), 0, cuda_stream(ctx)>>>(
      sums_of_tiles, tiles, a.channels, W, a.dweight, a.dbias);
  MATVLM_LAUNCH_CHECK();
}

// Fastest of the plans tried on an H100 (tests/bench/RESULTS.md), and those of rows that are not aligned or of 2 or 3
// taps.
template <class E>
using WideForward = ForwardPlan<kPackWidth<E> / 2, true, 12, 0>;
using NarrowForward = ForwardPlan<1, false, 16, 32>;
template <class E>
using WideBackward = BackwardPlan<4, 2, 2, sizeof(E) == 2 ? 8 : 6, 0>;
using NarrowBackward = BackwardPlan<1, 4, 0, 7, 32>;

}  // namespace

template <class E>
void conv1d_forward_cuda(Context& ctx, const Conv1dArgs<E, float>& a) {
  if (a.channels == 0) return;
  constexpr int V = kPackWidth<E>;
  if (a.width == 4 && forward_aligned(a, V)) return forward<E, V, 4, WideForward<E>>(ctx, a);
  with_width(a.width, [&](auto width) { forward<E, 1, width(), NarrowForward>(ctx, a); });
}

template <class E>
void conv1d_backward_cuda(Context& ctx, const Conv1dArgs<E, float>& a) {
  if (a.channels == 0 || a.tokens == 0) return;
  if (a.width == 4 && backward_aligned(a, WideBackward<E>::V)) return launch_backward<E, 4, WideBackward<E>>(ctx, a);
  with_width(a.width, [&](auto width) { launch_backward<E, width(), NarrowBackward>(ctx, a); });
}

template void conv1d_forward_cuda(Context&, const Conv1dArgs<float, float>&);
template void conv1d_forward_cuda(Context&, const Conv1dArgs<bf16, float>&);
template void conv1d_backward_cuda(Context&, const Conv1dArgs<float, float>&);
template void conv1d_backward_cuda(Context&, const Conv1dArgs<bf16, float>&);

}  // namespace matvlm
