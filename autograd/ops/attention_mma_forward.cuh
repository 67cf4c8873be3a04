// Attention forward by mma.sync (sm_80 and later): a block of 4 warps does 64 queries of one head, the queries'
// fragments stay in registers, tiles of 64 keys and values come by asynchronous copies while the tile before is worked
// on. Running maximum and sum as in FlashAttention-2 (Dao 2023), exponentials in base 2.
#pragma once

#include <cmath>

#include "autograd/ops/attention_mma.cuh"

namespace matvlm::attention_kernels {

constexpr int kMmaKeys = 64;

struct MmaForward {
  Bf16Forward args;
  bool q_vectors, k_vectors, v_vectors, out_pairs;
};

// The two rows of a thread: lane / 4 and 8 more.
template <int kDim>
struct MmaSoftmax {
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {};  // of the thread's own columns
  float out[kDim / 8][4] = {};

  // Logits (-inf where hidden) -> weights relative to the new maximum. factor: scale * log2(e), positive. A row has
  // seen a visible key by its first tile, so its maximum is finite.
  __device__ void update(float (&s)[kMmaKeys / 8][4], float factor) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float m = max[half];
#pragma unroll
      for (int n = 0; n < kMmaKeys / 8; ++n) m = fmaxf(m, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
      m = fmaxf(m, __shfl_xor_sync(0xffffffffU, m, 1));
      m = fmaxf(m, __shfl_xor_sync(0xffffffffU, m, 2));
      const float shrink = mma::exp2_approx((max[half] - m) * factor);
      max[half] = m;
      sum[half] *= shrink;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        out[n][2 * half] *= shrink;
        out[n][2 * half + 1] *= shrink;
      }
      const float offset = -m * factor;
#pragma unroll
      for (int n = 0; n < kMmaKeys / 8; ++n) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          s[n][e] = mma::exp2_approx(fmaf(s[n][e], factor, offset));
          sum[half] += s[n][e];
        }
      }
    }
  }
};

template <int kDim>
__global__ void __launch_bounds__(kMmaThreads, 2) mma_forward_kernel(MmaForward f) {
  extern __shared__ uint4 mma_shared[];
  using Tile = mma::Tile<kDim>;
  constexpr int kTile = Tile::elements(kMmaRows);
  static_assert(kMmaKeys == kMmaRows);
  const Bf16Forward& a = f.args;
  const Sequence sequence(a.ranges, a.shape.causal);
  // Causal rows grow with the query, and blocks start in order: the long ones first.
  const int64_t first = static_cast<int64_t>(gridDim.x - 1 - blockIdx.x) * kMmaRows;
  if (first >= sequence.queries) return;
  const int64_t h = blockIdx.y;
  const int p = static_cast<int>(a.shape.head_dim);
  const int64_t kv_column = h / (a.shape.heads / a.shape.kv_heads) * p;
  const float factor = static_cast<float>(a.shape.scale) * kLog2E;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp_row = static_cast<int>(threadIdx.x) / 32 * 16;
  bf16* q_tile = reinterpret_cast<bf16*>(mma_shared);
  bf16* kv_tiles = q_tile + kTile;  // two stages of k and v

  const int64_t q_row = sequence.q_begin + first;
  const HeadRows q{a.q + q_row * a.q_stride + h * p, a.q_stride, f.q_vectors};
  const HeadRows k{a.k + sequence.k_begin * a.k_stride + kv_column, a.k_stride, f.k_vectors};
  const HeadRows v{a.v + sequence.k_begin * a.v_stride + kv_column, a.v_stride, f.v_vectors};
  const auto load_stage = [&](int64_t key, int stage) {
    bf16* tile = kv_tiles + stage * 2 * kTile;
    load_rows<kMmaKeys, kDim>(tile, k.from(key), sequence.keys - key, p);
    load_rows<kMmaKeys, kDim>(tile + kTile, v.from(key), sequence.keys - key, p);
  };
  load_rows<kMmaRows, kDim>(q_tile, q, sequence.queries - first, p);
  load_stage(0, 0);
  mma::copy_async_commit();

  MmaSoftmax<kDim> state;
  unsigned q_fragments[kDim / 16][4];
  const int64_t seen = sequence.visible(min(first + kMmaRows, sequence.queries) - 1);
  int stage = 0;
  for (int64_t key = 0; key < seen; key += kMmaKeys, stage ^= 1) {
    if (key + kMmaKeys < seen) load_stage(key + kMmaKeys, stage ^ 1);
    mma::copy_async_commit();
    mma::copy_async_wait<1>();
    __syncthreads();
    if (key == 0) {
      const Tile tile(q_tile);
#pragma unroll
      for (int i = 0; i < kDim / 16; ++i) tile.load_a(q_fragments[i], warp_row, i * 16, lane);
    }
    const bf16* tile = kv_tiles + stage * 2 * kTile;
    float s[kMmaKeys / 8][4] = {};
    multiply_rows<kDim, kMmaKeys>(s, q_fragments, Tile(tile), lane);
    // Hidden keys only at the sequence's end and on the diagonal.
    if (sequence.visible(first + warp_row) < key + kMmaKeys) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t row = min(first + warp_row + lane / 4 + 8 * half, sequence.queries - 1);
        const int visible = static_cast<int>(min(sequence.visible(row) - key, static_cast<int64_t>(kMmaKeys)));
#pragma unroll
        for (int n = 0; n < kMmaKeys / 8; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            if (n * 8 + lane % 4 * 2 + e >= visible) s[n][2 * half + e] = -INFINITY;
          }
        }
      }
    }
    state.update(s, factor);
    multiply_weights<kDim, kMmaKeys>(state.out, s, Tile(tile + kTile), lane);
    __syncthreads();  // the next turn loads into this stage
  }

  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = state.sum[half];
    sum += __shfl_xor_sync(0xffffffffU, sum, 1);
    sum += __shfl_xor_sync(0xffffffffU, sum, 2);
    inverse[half] = 1.0F / sum;
    const int row = warp_row + lane / 4 + 8 * half;
    if (a.lse != nullptr && lane % 4 == 0 && first + row < sequence.queries) {
      a.lse[h * a.tokens + q_row + row] = state.max[half] * static_cast<float>(a.shape.scale) + logf(sum);
    }
  }
  const HeadTarget target{a.out + q_row * a.out_stride + h * p, a.out_stride, f.out_pairs, false};
  store_rows<kDim>(target, state.out, inverse, warp_row, sequence.queries - first, p);
}

template <int kDim>
void forward_mma(Context& ctx, const Bf16Forward& args) {
  const AttentionShape& shape = args.shape;
  const dim3 grid = attention_grid(args.ranges, args.ranges.longest_q, kMmaRows, shape.heads);
  if (grid.x == 0 || grid.z == 0) return;
  const MmaForward f{args, aligned_heads(args.q, args.q_stride, shape.head_dim, 8),
                     aligned_heads(args.k, args.k_stride, shape.head_dim, 8),
                     aligned_heads(args.v, args.v_stride, shape.head_dim, 8),
                     aligned_heads(args.out, args.out_stride, shape.head_dim, 2)};
  launch_mma(ctx, mma_forward_kernel<kDim>, grid, 5 * mma::Tile<kDim>::elements(kMmaRows), 0, f);
}

}  // namespace matvlm::attention_kernels
