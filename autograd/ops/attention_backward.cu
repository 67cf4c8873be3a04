// Attention backward on a GPU for float32. Probabilities are recomputed from the saved log-sum-exp. One kernel over
// query tiles makes dq, one over key tiles makes dk and dv and adds the query heads of a key head in order: no atomics,
// same bits every time. All arithmetic is float32 on the CUDA cores.
#include <cmath>

#include "autograd/ops/attention_device.h"
#include "autograd/ops/attention_tiles.cuh"

namespace matvlm {
namespace attention_kernels {
namespace {

constexpr int kColumns = 32;  // keys (dq) or queries (dk, dv) of the other side's tile
constexpr int kOwnColumns = kColumns / kGrid;
constexpr int kSideStride = tile_stride(kColumns);

template <int kChunks>
__global__ void __launch_bounds__(kThreads, 2) dq_kernel(AttentionBackwardArgs<float, float> a) {
  extern __shared__ float4 shared_memory[];
  const AttentionForwardArgs<float, float>& f = a.forward;
  const Sequence sequence(f.ranges, f.shape.causal);
  // Causal rows grow with the query, and blocks start in order: the long ones first.
  const int64_t first = static_cast<int64_t>(gridDim.x - 1 - blockIdx.x) * kRows;
  if (first >= sequence.queries) return;
  const int64_t h = blockIdx.y;
  const int p = static_cast<int>(f.shape.head_dim);
  const int64_t kv_column = h / (f.shape.heads / f.shape.kv_heads) * p;
  const float scale = static_cast<float>(f.shape.scale);
  const int tx = threadIdx.x % kGrid;
  const int own_row = threadIdx.x / kGrid * kOwnRows;
  float* q_tile = reinterpret_cast<float*>(shared_memory);
  float* grad_tile = q_tile + kRows * tile_stride(p);
  float* k_tile = grad_tile + kRows * tile_stride(p);
  float* v_tile = k_tile + kColumns * tile_stride(p);
  float* weights = v_tile + kColumns * tile_stride(p);

  const int64_t q_row = sequence.q_begin + first;
  const int64_t rows = sequence.queries - first;
  load_tile<kRows>(q_tile, f.q + q_row * f.q_stride + h * p, f.q_stride, rows, p);
  load_tile<kRows>(grad_tile, a.grad_out + q_row * a.grad_out_stride + h * p, a.grad_out_stride, rows, p);
  float lse[kOwnRows];
  float delta[kOwnRows];
#pragma unroll
  for (int i = 0; i < kOwnRows; ++i) {
    const bool valid = own_row + i < rows;
    lse[i] = valid ? f.lse[h * f.tokens + q_row + own_row + i] : 0.0F;
    delta[i] = valid ? a.delta[h * f.tokens + q_row + own_row + i] : 0.0F;
  }
  float dq[kOwnRows][kChunks] = {};
  const int64_t seen = sequence.visible(min(first + kRows, sequence.queries) - 1);
  for (int64_t key = 0; key < seen; key += kColumns) {
    const int64_t k_row = sequence.k_begin + key;
    __syncthreads();  // the products with the previous k tile are done
    load_tile<kColumns>(k_tile, f.k + k_row * f.k_stride + kv_column, f.k_stride, sequence.keys - key, p);
    load_tile<kColumns>(v_tile, f.v + k_row * f.v_stride + kv_column, f.v_stride, sequence.keys - key, p);
    __syncthreads();
    float logits[kOwnRows][kOwnColumns] = {};
    float grads[kOwnRows][kOwnColumns] = {};
    multiply_by_rows(q_tile, k_tile, p, logits);
    multiply_by_rows(grad_tile, v_tile, p, grads);
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i) {
      const int64_t visible = own_row + i < rows ? sequence.visible(first + own_row + i) - key : 0;
#pragma unroll
      for (int j = 0; j < kOwnColumns; ++j) {
        const float probability = exp_nonpositive(logits[i][j] * scale - lse[i]);
        weights[(own_row + i) * kSideStride + tx + j * kGrid] =
            tx + j * kGrid < visible ? probability * (grads[i][j] - delta[i]) * scale : 0.0F;
      }
    }
    __syncwarp();  // the weights of a row are written and read by the same warp
    multiply_by_columns<kColumns>(weights, k_tile, p, dq);
  }
  store_result(a.dq + q_row * a.dq_stride + h * p, a.dq_stride, rows, p, a.accumulate_dq, dq);
}

// dk and dv of 64 keys of one key head.
template <int kChunks>
__global__ void __launch_bounds__(kThreads, 2) dkv_kernel(AttentionBackwardArgs<float, float> a) {
  extern __shared__ float4 shared_memory[];
  const AttentionForwardArgs<float, float>& f = a.forward;
  const Sequence sequence(f.ranges, f.shape.causal);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRows;
  if (first >= sequence.keys) return;
  const int64_t kv = blockIdx.y;
  const int64_t group = f.shape.heads / f.shape.kv_heads;
  const int p = static_cast<int>(f.shape.head_dim);
  const float scale = static_cast<float>(f.shape.scale);
  const int tx = threadIdx.x % kGrid;
  const int own_row = threadIdx.x / kGrid * kOwnRows;
  float* k_tile = reinterpret_cast<float*>(shared_memory);
  float* v_tile = k_tile + kRows * tile_stride(p);
  float* q_tile = v_tile + kRows * tile_stride(p);
  float* grad_tile = q_tile + kColumns * tile_stride(p);
  float* weights = grad_tile + kColumns * tile_stride(p);

  const int64_t k_row = sequence.k_begin + first;
  const int64_t rows = sequence.keys - first;
  load_tile<kRows>(k_tile, f.k + k_row * f.k_stride + kv * p, f.k_stride, rows, p);
  load_tile<kRows>(v_tile, f.v + k_row * f.v_stride + kv * p, f.v_stride, rows, p);
  float dk[kOwnRows][kChunks] = {};
  float dv[kOwnRows][kChunks] = {};
  // The first query that sees a key of this tile, rounded down to a tile of queries.
  const int64_t earliest = sequence.causal ? first - (sequence.keys - sequence.queries) : 0;
  const int64_t start = earliest > 0 ? earliest / kColumns * kColumns : 0;
  for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
    for (int64_t query = start; query < sequence.queries; query += kColumns) {
      const int64_t q_row = sequence.q_begin + query;
      const int64_t columns = sequence.queries - query;
      __syncthreads();  // the products with the previous tiles are done
      load_tile<kColumns>(q_tile, f.q + q_row * f.q_stride + h * p, f.q_stride, columns, p);
      load_tile<kColumns>(grad_tile, a.grad_out + q_row * a.grad_out_stride + h * p, a.grad_out_stride, columns, p);
      __syncthreads();
      float logits[kOwnRows][kOwnColumns] = {};
      float grads[kOwnRows][kOwnColumns] = {};
      multiply_by_rows(k_tile, q_tile, p, logits);
      multiply_by_rows(v_tile, grad_tile, p, grads);
#pragma unroll
      for (int j = 0; j < kOwnColumns; ++j) {
        const int column = tx + j * kGrid;
        const bool valid = column < columns;
        const float lse = valid ? f.lse[h * f.tokens + q_row + column] : 0.0F;
        const float delta = valid ? a.delta[h * f.tokens + q_row + column] : 0.0F;
        const int64_t visible = valid ? sequence.visible(query + column) - first : 0;
#pragma unroll
        for (int i = 0; i < kOwnRows; ++i) {
          const bool seen = own_row + i < visible;
          const float probability = exp_nonpositive(logits[i][j] * scale - lse);
          logits[i][j] = seen ? probability : 0.0F;
          grads[i][j] = seen ? probability * (grads[i][j] - delta) * scale : 0.0F;
          weights[(own_row + i) * kSideStride + column] = logits[i][j];
        }
      }
      __syncwarp();  // the weights of a row are written and read by the same warp
      multiply_by_columns<kColumns>(weights, grad_tile, p, dv);
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kOwnRows; ++i) {
#pragma unroll
        for (int j = 0; j < kOwnColumns; ++j) {
          weights[(own_row + i) * kSideStride + tx + j * kGrid] = grads[i][j];
        }
      }
      __syncwarp();
      multiply_by_columns<kColumns>(weights, q_tile, p, dk);
    }
  }
  if (a.dk != nullptr) {
    store_result(a.dk + k_row * a.dk_stride + kv * p, a.dk_stride, rows, p, a.accumulate_dk, dk);
  }
  if (a.dv != nullptr) {
    store_result(a.dv + k_row * a.dv_stride + kv * p, a.dv_stride, rows, p, a.accumulate_dv, dv);
  }
}

}  // namespace

void backward_plain(Context& ctx, const AttentionBackwardArgs<float, float>& args) {
  const AttentionShape& shape = args.forward.shape;
  const AttentionRanges& ranges = args.forward.ranges;
  const int64_t floats = 2 * (kRows + kColumns) * tile_stride(static_cast<int>(shape.head_dim)) + kRows * kSideStride;
  const dim3 q_grid = attention_grid(ranges, ranges.longest_q, kRows, shape.heads);
  const dim3 k_grid = attention_grid(ranges, ranges.longest_k, kRows, shape.kv_heads);
  if (ranges.batch == 0) return;
  dispatch_chunks(shape.head_dim, [&](auto chunks) {
    constexpr int kChunks = decltype(chunks)::value;
    if (args.dq != nullptr && q_grid.x > 0) launch(ctx, dq_kernel<kChunks>, q_grid, floats, args);
    const bool keys = args.dk != nullptr || args.dv != nullptr;
    if (keys && k_grid.x > 0) launch(ctx, dkv_kernel<kChunks>, k_grid, floats, args);
  });
}

}  // namespace attention_kernels
}  // namespace matvlm
