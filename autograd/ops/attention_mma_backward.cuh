// Attention backward by mma.sync (sm_80 and later). As many products as the key side and the query side need each (7
// where 5 would do with sums across blocks), so that no sum depends on the order of blocks: dq_kernel's block owns 64
// queries of a head, dkv_kernel's block 64 keys of a key head and adds that head's query heads in order.
#pragma once

#include <cmath>

#include "autograd/ops/attention_mma.cuh"

namespace matvlm::attention_kernels {

struct MmaBackward {
  Bf16Backward args;
  bool q_vectors, k_vectors, v_vectors, grad_vectors;
  bool dq_pairs, dk_pairs, dv_pairs;
};

// Rows of the tiles that pass by: all of shared memory must fit into the 99 KB that a block gets on sm_86 to sm_120,
// and the sums into the registers.
template <int kDim>
constexpr int kMmaDqKeys = kDim > 96 ? 32 : 64;
template <int kDim>
constexpr int kMmaDkvQueries = kDim > 64 ? 32 : 64;

template <int kDim>
__global__ void __launch_bounds__(kMmaThreads, 2) mma_dq_kernel(MmaBackward b) {
  extern __shared__ uint4 mma_shared[];
  using Tile = mma::Tile<kDim>;
  constexpr int kKeys = kMmaDqKeys<kDim>;
  constexpr int kOwn = Tile::elements(kMmaRows);
  constexpr int kTile = Tile::elements(kKeys);
  const Bf16Backward& a = b.args;
  const Bf16Forward& f = a.forward;
  const Sequence sequence(f.ranges, f.shape.causal);
  const int64_t first = static_cast<int64_t>(gridDim.x - 1 - blockIdx.x) * kMmaRows;  // the long ones first
  if (first >= sequence.queries) return;
  const int64_t h = blockIdx.y;
  const int p = static_cast<int>(f.shape.head_dim);
  const int64_t kv_column = h / (f.shape.heads / f.shape.kv_heads) * p;
  const float scale = static_cast<float>(f.shape.scale);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp_row = static_cast<int>(threadIdx.x) / 32 * 16;
  bf16* q_tile = reinterpret_cast<bf16*>(mma_shared);
  bf16* grad_tile = q_tile + kOwn;
  bf16* kv_tiles = grad_tile + kOwn;  // two stages of k and v

  const int64_t q_row = sequence.q_begin + first;
  const int64_t rows = sequence.queries - first;
  const HeadRows k{f.k + sequence.k_begin * f.k_stride + kv_column, f.k_stride, b.k_vectors};
  const HeadRows v{f.v + sequence.k_begin * f.v_stride + kv_column, f.v_stride, b.v_vectors};
  const auto load_stage = [&](int64_t key, int stage) {
    bf16* tile = kv_tiles + stage * 2 * kTile;
    load_rows<kKeys, kDim>(tile, k.from(key), sequence.keys - key, p);
    load_rows<kKeys, kDim>(tile + kTile, v.from(key), sequence.keys - key, p);
  };
  load_rows<kMmaRows, kDim>(q_tile, {f.q + q_row * f.q_stride + h * p, f.q_stride, b.q_vectors}, rows, p);
  load_rows<kMmaRows, kDim>(
      grad_tile, {a.grad_out + q_row * a.grad_out_stride + h * p, a.grad_out_stride, b.grad_vectors}, rows, p);
  load_stage(0, 0);
  mma::copy_async_commit();

  float lse[2];  // in base 2; +inf past the end, where every probability is then 0
  float delta[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp_row + lane / 4 + 8 * half;
    const bool valid = row < rows;
    lse[half] = valid ? f.lse[h * f.tokens + q_row + row] * kLog2E : INFINITY;
    delta[half] = valid ? a.delta[h * f.tokens + q_row + row] : 0.0F;
  }
  float dq[kDim / 8][4] = {};
  const int64_t seen = sequence.visible(min(first + kMmaRows, sequence.queries) - 1);
  int stage = 0;
  for (int64_t key = 0; key < seen; key += kKeys, stage ^= 1) {
    if (key + kKeys < seen) load_stage(key + kKeys, stage ^ 1);
    mma::copy_async_commit();
    mma::copy_async_wait<1>();
    __syncthreads();
    const bf16* tile = kv_tiles + stage * 2 * kTile;
    float s[kKeys / 8][4] = {};
    float grad[kKeys / 8][4] = {};
    multiply_rows<kDim, kKeys>(s, Tile(q_tile), warp_row, Tile(tile), lane);
    multiply_rows<kDim, kKeys>(grad, Tile(grad_tile), warp_row, Tile(tile + kTile), lane);
    const bool masked = sequence.visible(first + warp_row) < key + kKeys;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = min(first + warp_row + lane / 4 + 8 * half, sequence.queries - 1);
      const int visible =
          masked ? static_cast<int>(min(sequence.visible(row) - key, static_cast<int64_t>(kKeys))) : kKeys;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          const float probability = mma::exp2_approx(fmaf(s[n][e], scale * kLog2E, -lse[half]));
          const float x = probability * (grad[n][e] - delta[half]);
          s[n][e] = n * 8 + lane % 4 * 2 + e % 2 < visible ? x : 0.0F;
        }
      }
    }
    multiply_weights<kDim, kKeys>(dq, s, Tile(tile), lane);
    __syncthreads();  // the next turn loads into this stage
  }
  const float factor[2] = {scale, scale};
  const HeadTarget target{a.dq + q_row * a.dq_stride + h * p, a.dq_stride, b.dq_pairs, a.accumulate_dq};
  store_rows<kDim>(target, dq, factor, warp_row, rows, p);
}

// Key rows, query columns: logits and gradients are made transposed, and so are the A fragments that dk and dv need.
template <int kDim>
__global__ void __launch_bounds__(kMmaThreads, 2) mma_dkv_kernel(MmaBackward b) {
  extern __shared__ uint4 mma_shared[];
  using Tile = mma::Tile<kDim>;
  constexpr int kQueries = kMmaDkvQueries<kDim>;
  constexpr int kOwn = Tile::elements(kMmaRows);
  constexpr int kTile = Tile::elements(kQueries);
  const Bf16Backward& a = b.args;
  const Bf16Forward& f = a.forward;
  const Sequence sequence(f.ranges, f.shape.causal);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kMmaRows;  // the first keys are seen by most queries
  if (first >= sequence.keys) return;
  const int64_t kv = blockIdx.y;
  const int64_t group = f.shape.heads / f.shape.kv_heads;
  const int p = static_cast<int>(f.shape.head_dim);
  const float scale = static_cast<float>(f.shape.scale);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp_row = static_cast<int>(threadIdx.x) / 32 * 16;
  bf16* k_tile = reinterpret_cast<bf16*>(mma_shared);
  bf16* v_tile = k_tile + kOwn;
  bf16* q_tiles = v_tile + kOwn;                                      // two stages of q and grad_out
  float* statistics = reinterpret_cast<float*>(q_tiles + 4 * kTile);  // two stages of lse (base 2) and delta

  const int64_t k_row = sequence.k_begin + first;
  const int64_t rows = sequence.keys - first;
  // The first query that sees a key of this tile, rounded down to a tile of queries.
  const int64_t earliest = sequence.causal ? first - (sequence.keys - sequence.queries) : 0;
  const int64_t start = earliest > 0 ? earliest / kQueries * kQueries : 0;
  const int64_t turns = start < sequence.queries ? (sequence.queries - start + kQueries - 1) / kQueries : 0;
  const auto query_of = [&](int64_t turn) { return start + turn % turns * kQueries; };
  const auto head_of = [&](int64_t turn) { return kv * group + turn / turns; };
  const auto load_stage = [&](int64_t turn, int stage) {
    const int64_t q_row = sequence.q_begin + query_of(turn);
    const int64_t valid = sequence.queries - query_of(turn);
    const int64_t h = head_of(turn);
    bf16* tile = q_tiles + stage * 2 * kTile;
    load_rows<kQueries, kDim>(tile, {f.q + q_row * f.q_stride + h * p, f.q_stride, b.q_vectors}, valid, p);
    load_rows<kQueries, kDim>(
        tile + kTile, {a.grad_out + q_row * a.grad_out_stride + h * p, a.grad_out_stride, b.grad_vectors}, valid, p);
    const int i = static_cast<int>(threadIdx.x);
    if (i < kQueries) {
      // +inf past the end, where every probability is then 0.
      const bool inside = i < valid;
      float* to = statistics + stage * 2 * kQueries + i;
      to[0] = inside ? f.lse[h * f.tokens + q_row + i] * kLog2E : INFINITY;
      to[kQueries] = inside ? a.delta[h * f.tokens + q_row + i] : 0.0F;
    }
  };
  load_rows<kMmaRows, kDim>(k_tile, {f.k + k_row * f.k_stride + kv * p, f.k_stride, b.k_vectors}, rows, p);
  load_rows<kMmaRows, kDim>(v_tile, {f.v + k_row * f.v_stride + kv * p, f.v_stride, b.v_vectors}, rows, p);
  if (turns > 0) load_stage(0, 0);
  mma::copy_async_commit();

  float dk[kDim / 8][4] = {};
  float dv[kDim / 8][4] = {};
  int stage = 0;
  for (int64_t turn = 0; turn < turns * group; ++turn, stage ^= 1) {
    if (turn + 1 < turns * group) load_stage(turn + 1, stage ^ 1);
    mma::copy_async_commit();
    mma::copy_async_wait<1>();
    __syncthreads();
    const bf16* tile = q_tiles + stage * 2 * kTile;
    const float* lse = statistics + stage * 2 * kQueries;
    float s[kQueries / 8][4] = {};
    multiply_rows<kDim, kQueries>(s, Tile(k_tile), warp_row, Tile(tile), lane);
    // Key `row` is seen by the queries whose visible count is above it.
    const int64_t limit = sequence.visible(query_of(turn)) - first;  // keys of the tile that the first query sees
    const int hidden = limit < kMmaRows ? static_cast<int>(max(limit, static_cast<int64_t>(-kQueries))) : kMmaRows;
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n) {
      const int column = n * 8 + lane % 4 * 2;
      const float2 l = *reinterpret_cast<const float2*>(lse + column);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float x = mma::exp2_approx(fmaf(s[n][e], scale * kLog2E, e % 2 == 0 ? -l.x : -l.y));
        const bool seen = !sequence.causal || warp_row + lane / 4 + e / 2 * 8 < hidden + column + e % 2;
        s[n][e] = seen ? x : 0.0F;
      }
    }
    multiply_weights<kDim, kQueries>(dv, s, Tile(tile + kTile), lane);
    float grad[kQueries / 8][4] = {};
    multiply_rows<kDim, kQueries>(grad, Tile(v_tile), warp_row, Tile(tile + kTile), lane);
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n) {
      const float2 d = *reinterpret_cast<const float2*>(lse + kQueries + n * 8 + lane % 4 * 2);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        // A probability of 0 stays 0 also where the gradient is not finite: the mask is a selection.
        const float x = s[n][e] * (grad[n][e] - (e % 2 == 0 ? d.x : d.y));
        const bool seen = !sequence.causal || warp_row + lane / 4 + e / 2 * 8 < hidden + n * 8 + lane % 4 * 2 + e % 2;
        s[n][e] = seen ? x : 0.0F;
      }
    }
    multiply_weights<kDim, kQueries>(dk, s, Tile(tile), lane);
    __syncthreads();  // the next turn loads into this stage
  }
  mma::copy_async_wait<0>();  // where there was no turn
  const float factor[2] = {scale, scale};
  const float one[2] = {1.0F, 1.0F};
  if (a.dk != nullptr) {
    store_rows<kDim>({a.dk + k_row * a.dk_stride + kv * p, a.dk_stride, b.dk_pairs, a.accumulate_dk}, dk, factor,
                     warp_row, rows, p);
  }
  if (a.dv != nullptr) {
    store_rows<kDim>({a.dv + k_row * a.dv_stride + kv * p, a.dv_stride, b.dv_pairs, a.accumulate_dv}, dv, one, warp_row,
                     rows, p);
  }
}

template <int kDim>
void backward_mma(Context& ctx, const Bf16Backward& args) {
  const Bf16Forward& f = args.forward;
  const AttentionShape& shape = f.shape;
  const int64_t p = shape.head_dim;
  const dim3 q_grid = attention_grid(f.ranges, f.ranges.longest_q, kMmaRows, shape.heads);
  const dim3 k_grid = attention_grid(f.ranges, f.ranges.longest_k, kMmaRows, shape.kv_heads);
  const MmaBackward b{args,
                      aligned_heads(f.q, f.q_stride, p, 8),
                      aligned_heads(f.k, f.k_stride, p, 8),
                      aligned_heads(f.v, f.v_stride, p, 8),
                      aligned_heads(args.grad_out, args.grad_out_stride, p, 8),
                      aligned_heads(args.dq, args.dq_stride, p, 2),
                      aligned_heads(args.dk, args.dk_stride, p, 2),
                      aligned_heads(args.dv, args.dv_stride, p, 2)};
  // The own tiles, two stages of two others, and the statistics of the latter in dkv.
  const auto elements = [](int inner) {
    return 2 * mma::Tile<kDim>::elements(kMmaRows) + 4 * mma::Tile<kDim>::elements(inner);
  };
  constexpr int kQueries = kMmaDkvQueries<kDim>;
  if (f.ranges.batch == 0) return;
  if (args.dq != nullptr && q_grid.x > 0)
    launch_mma(ctx, mma_dq_kernel<kDim>, q_grid, elements(kMmaDqKeys<kDim>), 0, b);
  const bool keys = args.dk != nullptr || args.dv != nullptr;
  if (keys && k_grid.x > 0) launch_mma(ctx, mma_dkv_kernel<kDim>, k_grid, elements(kQueries), 4 * kQueries, b);
}

}  // namespace matvlm::attention_kernels
