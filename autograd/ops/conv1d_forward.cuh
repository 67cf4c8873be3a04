// Forward kernels of the causal convolution with SiLU. For conv1d.cu and its benchmark only.
#pragma once

#include "autograd/ops/conv1d_feed.cuh"
#include "autograd/ops/conv1d_taps.cuh"
#include "autograd/ops/sequence_lookup.cuh"
#include "autograd/ops/tiling.cuh"

namespace matvlm::conv1d_kernels {

constexpr int kForwardThreads = 64;

// One way of running the forward kernel: channels per thread, stages of the feed (conv1d_feed.cuh), resident blocks to
// leave registers for, tokens per block (0: as many as fill the multiprocessors).
template <int kVector, int kStages_, int kBlocks_, int64_t kTokens_>
struct ForwardPlan {
  static constexpr int V = kVector;
  static constexpr int kStages = kStages_;
  static constexpr int kBlocks = kBlocks_;
  static constexpr int64_t kTokens = kTokens_;
};

template <bool kFull, class E, int V, int W>
__device__ void forward_batch(const Conv1dArgs<E, float>& a, const Taps<E, V, W>& taps, int64_t t, int count, int64_t c,
                              const Pack<E, V> (&in)[W], Ring<V, W>& x) {
  E* to = a.y + t * a.y_stride + c;
  const auto stride = static_cast<int>(a.y_stride);
#pragma unroll
  for (int i = 0; i < W; ++i) {
    if (!kFull && i >= count) break;
    in[i].unpack(x.slot[i]);
    keep(x.slot[i]);
    float y[V];
    preactivation(taps, x, i, y);
#pragma unroll
    for (int v = 0; v < V; ++v) y[v] = Silu<E>::value(y[v]);
    Pack<E, V>::pack(y).store(to + static_cast<int64_t>(i) * stride);
    if (a.every != nullptr) store_window<E, V, W>(a, x, i, c, a.every + (t + i) * (W - 1) * a.channels);
  }
}

// Tokens [t, stop) of one sequence, which the feed brings next; x holds the inputs before t.
template <class E, int V, int W, class Feed>
__device__ void forward_tokens(const Conv1dArgs<E, float>& a, const Taps<E, V, W>& taps, Feed& feed, int64_t t,
                               int64_t stop, int64_t c, Ring<V, W>& x) {
  for (; t + W <= stop; t += W) {
    const auto in = feed.take();
    forward_batch<true>(a, taps, t, W, c, in.of[0], x);
  }
  if (t >= stop) return;
  const auto in = feed.take();
  forward_batch<false>(a, taps, t, static_cast<int>(stop - t), c, in.of[0], x);
}

// Tokens [t, last) of x.
template <class E>
__device__ FeedSource<E, 1> forward_source(const Conv1dArgs<E, float>& a, int64_t t, int64_t last, int64_t c) {
  return {{a.x + t * a.x_stride + c}, {static_cast<int>(a.x_stride)}, static_cast<int>(last - t)};
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
  using Feed = FeedOf<E, V, W, 1, Plan::kStages>;
  __shared__ typename Feed::Shared staged[kForwardThreads / kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t c = first_channel<V>(columns, kForwardThreads);
  const int64_t first = static_cast<int64_t>(blockIdx.x / columns) * tile_tokens;
  const int64_t last = min(first + tile_tokens, a.tokens);
  Feed feed(staged[threadIdx.x / kWarp], lane);
  // What comes first is under way before anything else is known, whatever sequences it belongs to.
  if (c < a.channels) feed.start(forward_source(a, first, last, c));
  int64_t b = warp_sequence_of(a.cu, a.batch, first, lane);
  if (c >= a.channels) return;
  const Taps<E, V, W> taps(a, c);
  for (int64_t t = first; t < last;) {
    while (t >= a.cu[b + 1]) ++b;
    const int64_t stop = min(last, a.cu[b + 1]);
    Ring<V, W> x;
    load_window<E, V, W>(a, b, a.cu[b], t, c, x);
    forward_tokens(a, taps, feed, t, stop, c, x);
    t = stop;
    if (t < last) feed.start(forward_source(a, t, last, c));
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
    using Feed = RegisterFeed<E, V, W, 1>;
    typename Feed::Shared none;
    Feed feed(none, 0);
    feed.start(forward_source(a, begin, end, c));
    load_window<E, V, W>(a, b, begin, begin, c, x);
    forward_tokens(a, Taps<E, V, W>(a, c), feed, begin, end, c, x);
  }
  load_window<E, V, W>(a, b, begin, end, c, x);
  const int64_t slot = a.slots != nullptr ? a.slots[b] : b;
  store_window<E, V, W>(a, x, W - 1, c, a.final_state + slot * (W - 1) * a.channels);
}

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

}  // namespace matvlm::conv1d_kernels
