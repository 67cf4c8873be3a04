// Attention forward on a GPU for float32: a block does 64 queries of one head and walks over tiles of 64 keys with a
// running maximum and sum (online softmax, Milakov & Gimelshein 2018; tiling as in FlashAttention, Dao et al. 2022).
// All arithmetic is float32 on the CUDA cores.
#include <cmath>

#include "autograd/ops/attention_device.h"
#include "autograd/ops/attention_tiles.cuh"

namespace matvlm {
namespace attention_kernels {
namespace {

constexpr int kKeys = 64;                // keys of a tile
constexpr int kOwnKeys = kKeys / kGrid;  // of them, keys of one thread
constexpr int kWeightStride = tile_stride(kKeys);

// Largest value and sum over the 16 threads that share rows.
__device__ float row_max(float x) {
#pragma unroll
  for (int step = kGrid / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffU, x, step));
  return x;
}
__device__ float row_sum(float x) {
#pragma unroll
  for (int step = kGrid / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffU, x, step);
  return x;
}

// Running softmax of the rows of a thread. `sum` is the part of its own columns.
template <int kChunks>
struct OnlineSoftmax {
  float max[kOwnRows];
  float sum[kOwnRows];
  float out[kOwnRows][kChunks];

  __device__ OnlineSoftmax() {
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i) {
      max[i] = -INFINITY;
      sum[i] = 0.0F;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) out[i][c] = 0.0F;
    }
  }

  // Takes row i's logits of a tile (-inf where hidden; the row has seen a visible key by then, so that the maximum is
  // finite) and turns them into weights relative to the new maximum.
  __device__ void update(int i, float (&logits)[kOwnKeys]) {
    float tile_max = logits[0];
#pragma unroll
    for (int j = 1; j < kOwnKeys; ++j) tile_max = fmaxf(tile_max, logits[j]);
    const float new_max = fmaxf(max[i], row_max(tile_max));
    const float shrink = exp_nonpositive(max[i] - new_max);
    max[i] = new_max;
    sum[i] *= shrink;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) out[i][c] *= shrink;
#pragma unroll
    for (int j = 0; j < kOwnKeys; ++j) {
      logits[j] = exp_nonpositive(logits[j] - new_max);
      sum[i] += logits[j];
    }
  }
};

template <int kChunks>
__global__ void __launch_bounds__(kThreads, 2) forward_kernel(AttentionForwardArgs<float, float> a) {
  extern __shared__ float4 shared_memory[];
  const Sequence sequence(a.ranges, a.shape.causal);
  // Causal rows grow with the query, and blocks start in order: the long ones first.
  const int64_t first = static_cast<int64_t>(gridDim.x - 1 - blockIdx.x) * kRows;
  if (first >= sequence.queries) return;
  const int64_t h = blockIdx.y;
  const int p = static_cast<int>(a.shape.head_dim);
  const int64_t kv_column = h / (a.shape.heads / a.shape.kv_heads) * p;
  const float scale = static_cast<float>(a.shape.scale);
  const int tx = threadIdx.x % kGrid;
  const int own_row = threadIdx.x / kGrid * kOwnRows;
  float* q_tile = reinterpret_cast<float*>(shared_memory);
  float* kv_tile = q_tile + kRows * tile_stride(p);
  float* weights = kv_tile + kKeys * tile_stride(p);

  const int64_t q_row = sequence.q_begin + first;
  load_tile<kRows>(q_tile, a.q + q_row * a.q_stride + h * p, a.q_stride, sequence.queries - first, p);
  OnlineSoftmax<kChunks> state;
  const int64_t seen = sequence.visible(min(first + kRows, sequence.queries) - 1);
  for (int64_t key = 0; key < seen; key += kKeys) {
    const int64_t k_row = sequence.k_begin + key;
    __syncthreads();  // the products with the previous v tile are done
    load_tile<kKeys>(kv_tile, a.k + k_row * a.k_stride + kv_column, a.k_stride, sequence.keys - key, p);
    __syncthreads();
    float logits[kOwnRows][kOwnKeys] = {};
    multiply_by_rows(q_tile, kv_tile, p, logits);
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i) {
      const int64_t visible = sequence.visible(first + own_row + i) - key;
#pragma unroll
      for (int j = 0; j < kOwnKeys; ++j) {
        logits[i][j] = tx + j * kGrid < visible ? logits[i][j] * scale : -INFINITY;
      }
      state.update(i, logits[i]);
#pragma unroll
      for (int j = 0; j < kOwnKeys; ++j) weights[(own_row + i) * kWeightStride + tx + j * kGrid] = logits[i][j];
    }
    __syncthreads();  // the k tile is read, the weights are written
    load_tile<kKeys>(kv_tile, a.v + k_row * a.v_stride + kv_column, a.v_stride, sequence.keys - key, p);
    __syncthreads();
    multiply_by_columns<kKeys>(weights, kv_tile, p, state.out);
  }

#pragma unroll
  for (int i = 0; i < kOwnRows; ++i) {
    const float sum = row_sum(state.sum[i]);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) state.out[i][c] /= sum;
    if (a.lse != nullptr && tx == 0 && first + own_row + i < sequence.queries) {
      a.lse[h * a.tokens + q_row + own_row + i] = state.max[i] + logf(sum);
    }
  }
  store_result(a.out + q_row * a.out_stride + h * p, a.out_stride, sequence.queries - first, p, false, state.out);
}

}  // namespace

void forward_plain(Context& ctx, const AttentionForwardArgs<float, float>& args) {
  const dim3 grid = attention_grid(args.ranges, args.ranges.longest_q, kRows, args.shape.heads);
  if (grid.x == 0 || grid.z == 0) return;
  const int64_t floats = (kRows + kKeys) * tile_stride(static_cast<int>(args.shape.head_dim)) + kRows * kWeightStride;
  dispatch_chunks(args.shape.head_dim,
                  [&](auto chunks) { launch(ctx, forward_kernel<decltype(chunks)::value>, grid, floats, args); });
}

}  // namespace attention_kernels
}  // namespace matvlm
