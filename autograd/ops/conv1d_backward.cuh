// Backward kernels of the causal convolution with SiLU: one pass, in which each warp recomputes the W-1 preactivation
// gradients behind its tokens instead of sharing them through memory. Weight gradients: one partial sum per tile and
// channel, then an ordered sum over tiles. For conv1d.cu and its benchmark only.
#pragma once

#include "autograd/ops/column_sums.cuh"
#include "autograd/ops/conv1d_feed.cuh"
#include "autograd/ops/conv1d_taps.cuh"
#include "autograd/ops/sequence_lookup.cuh"
#include "autograd/ops/tiling.cuh"

namespace matvlm::conv1d_kernels {

// One way of running the backward kernel: channels per thread, warps of a block (each takes a part of the tile's
// tokens, all the same channels), stages of the feed (conv1d_feed.cuh), resident blocks to leave registers for, tokens
// per warp (0: as many as fill the multiprocessors).
template <int kVector, int kWarps_, int kStages_, int kBlocks_, int64_t kTokens_>
struct BackwardPlan {
  static constexpr int V = kVector;
  static constexpr int kWarps = kWarps_;
  static constexpr int kStages = kStages_;
  static constexpr int kBlocks = kBlocks_;
  static constexpr int64_t kTokens = kTokens_;
};

// One thread's tokens of one tile, sequence by sequence. kAdd: dx is added to.
template <class E, int V, int W, class Feed, bool kAdd>
struct Backward {
  const Conv1dArgs<E, float>& a;
  Feed& feed;
  const Taps<E, V, W> taps;
  float sums[W + 1][V] = {};  // of dpre * x for each tap, and of dpre
  Ring<V, W> x, dpre;         // dpre over Silu's kScale
  E* out = nullptr;           // dx of the token W-1 behind the next one, which completes it
  int out_stride;

  __device__ Backward(const Conv1dArgs<E, float>& args, int64_t c, Feed& inputs)
      : a(args), feed(inputs), taps(args, c), out_stride(static_cast<int>(args.dx_stride)) {}

  // x and dy from token t on. Those past the tile's last are wanted too: dx of the last ones needs dpre of W-1 more.
  static __device__ FeedSource<E, 2> source(const Conv1dArgs<E, float>& a, int64_t t, int64_t last, int64_t c) {
    return {{a.x + t * a.x_stride + c, a.dy + t * a.dy_stride + c},
            {static_cast<int>(a.x_stride), static_cast<int>(a.dy_stride)},
            static_cast<int>(min(last + W - 1, a.tokens) - t)};
  }

  // Tokens [first, stop) of a sequence that ends at `end`; the feed brings them next.
  __device__ void tokens(int64_t b, int64_t first, int64_t stop, int64_t end, int64_t c) {
    const int length = static_cast<int>(stop - first);
    const int known = static_cast<int>(min(end, stop + W - 1) - first);
    load_window<E, V, W>(a, b, a.cu[b], first, c, x);
    dpre = {};
    out = a.dx == nullptr ? nullptr : a.dx + (first - (W - 1)) * a.dx_stride + c;
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
    const auto in = feed.take();
#pragma unroll
    for (int i = 0; i < W; ++i) {
      in.of[0][i].unpack(x.slot[i]);
      keep(x.slot[i]);
      preactivation_gradient(i, in.of[1][i]);
      if (!kInner && done + i >= known) {
#pragma unroll
        for (int v = 0; v < V; ++v) dpre.slot[i][v] = 0.0F;
      }
      if (kInner || done + i < length) add_sums(i);
      const bool ready = kInner || (done + i >= W - 1 && done + i < length + W - 1);
      if (ready && out != nullptr) store_dx(i, out + static_cast<int64_t>(i) * out_stride);
    }
    if (out != nullptr) out += static_cast<int64_t>(W) * out_stride;
  }

  __device__ void preactivation_gradient(int newest, const Pack<E, V>& dy) {
    float pre[V];
    preactivation(taps, x, newest, pre);
    float(&d)[V] = dpre.slot[newest];
    dy.unpack(d);
#pragma unroll
    for (int v = 0; v < V; ++v) d[v] = Silu<E>::gradient(pre[v], d[v]);
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
    Pack<E, V>::store_or_add(to, dx, kAdd);
  }
};

// partial: [tiles, W+1, C], or null when no weight gradient is wanted.
template <class E, int W, class Plan, bool kAdd>
__global__ void __launch_bounds__(kWarp* Plan::kWarps, Plan::kBlocks)
    backward_kernel(Conv1dArgs<E, float> a, unsigned columns, int64_t warp_tokens, float* partial) {
  constexpr int V = Plan::V;
  constexpr int kWarps = Plan::kWarps;
  constexpr int kChannels = kWarp * V;
  using Feed = FeedOf<E, V, W, 2, Plan::kStages>;
  using Work = Backward<E, V, W, Feed, kAdd>;
  __shared__ alignas(16) float shared[kWarps][W + 1][kChannels];
  __shared__ typename Feed::Shared staged[kWarps];
  const int64_t block_channel = static_cast<int64_t>(blockIdx.x % columns) * kChannels;
  const int64_t tile = blockIdx.x / columns;
  const int lane = static_cast<int>(threadIdx.x);
  const int warp = static_cast<int>(threadIdx.y);
  const int64_t c = block_channel + lane * V;
  const int64_t first = (tile * kWarps + warp) * warp_tokens;
  const int64_t last = min(first + warp_tokens, a.tokens);
  const bool used = c < a.channels && first < last;
  Feed feed(staged[warp], lane);
  // What comes first is under way before anything else is known, whatever sequences it belongs to.
  if (used) feed.start(Work::source(a, first, last, c));
  int64_t b = warp_sequence_of(a.cu, a.batch, first, lane);
  if (used) {
    Work work(a, c, feed);
    for (int64_t t = first; t < last;) {
      while (t >= a.cu[b + 1]) ++b;
      const int64_t end = a.cu[b + 1];
      if (t > first) feed.start(Work::source(a, t, last, c));
      work.tokens(b, t, min(last, end), end, c);
      t = min(last, end);
    }
#pragma unroll
    for (int k = 0; k < (W + 1) * V; ++k) {
      shared[warp][k / V][lane * V + k % V] = work.sums[k / V][k % V] * Silu<E>::kScale;
    }
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

constexpr int kWeightSumRows = 4;  // there are thousands of channels, W+1 sums of each

// Adds the sums over tiles of partial [tiles, W+1, C] to dweight [C, W] and dbias [C].
static __global__ void weight_gradient_kernel(const float* partial, int64_t tiles, int64_t channels, int64_t width,
                                              float* dweight, float* dbias) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kSumColumns + threadIdx.x;
  const float sum = sum_tiles<kWeightSumRows>(partial, tiles, (width + 1) * channels, column);
  const int64_t w = column / channels;
  const int64_t c = column % channels;
  if (threadIdx.y != 0 || w > width) return;
  if (w < width && dweight != nullptr) dweight[c * width + w] += sum;
  if (w == width && dbias != nullptr) dbias[c] += sum;
}

template <class E, int W, class Plan>
void launch_backward(Context& ctx, const Conv1dArgs<E, float>& a) {
  const unsigned columns = count_blocks(a.channels, Plan::V * kWarp);
  const auto kernel = a.dx_accumulate ? backward_kernel<E, W, Plan, true> : backward_kernel<E, W, Plan, false>;
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
  weight_gradient_kernel<<<sum_blocks(sums), dim3(kSumColumns, kWeightSumRows), 0, cuda_stream(ctx)>>>(
      sums_of_tiles, tiles, a.channels, W, a.dweight, a.dbias);
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm::conv1d_kernels
