// What the float32 attention kernels share: float32 tiles in shared memory and products of them by 256 threads, a 16 x
// 16 grid in which thread (ty, tx) owns the rows 4 ty + i and the columns tx + 16 j of the result.
#pragma once

#include <cstdint>
#include <type_traits>

#include "autograd/ops/attention.h"
#include "core/cuda_context.h"

namespace matvlm {
namespace attention_kernels {

constexpr int kThreads = 256;
constexpr int kGrid = 16;    // threads along a row of the result, and along a column
constexpr int kRows = 64;    // rows of a result tile
constexpr int kOwnRows = 4;  // of them, rows of one thread

// Row stride, in floats, of a tile of n columns (n a multiple of 4): float4 accesses are aligned, and an odd number of
// float4 per row spreads the rows that neighbouring threads read over all banks.
__host__ __device__ constexpr int tile_stride(int n) { return ((n / 4) | 1) * 4; }

// Rows 0 ... kCount - 1 of a [., p] matrix into a tile; rows from `valid` on become 0.
template <int kCount>
__device__ void load_tile(float* tile, const float* src, int64_t src_stride, int64_t valid, int p) {
  const int stride = tile_stride(p);
#pragma unroll 1  // for the compiler's time: the rows below are what is in flight
  for (int d = threadIdx.x % 32; d < p; d += 32) {
#pragma unroll 4
    for (int row = threadIdx.x / 32; row < kCount; row += kThreads / 32) {
      tile[row * stride + d] = row < valid ? src[row * src_stride + d] : 0.0F;
    }
  }
}

__device__ inline float4 load4(const float* x) { return *reinterpret_cast<const float4*>(x); }

// result[i][j] += sum over d < p of a[4 ty + i][d] * b[tx + 16 j][d]; both tiles have p columns.
template <int kColumns>
__device__ void multiply_by_rows(const float* a, const float* b, int p, float (&result)[kOwnRows][kColumns]) {
  const int stride = tile_stride(p);
  a += (threadIdx.x / kGrid) * kOwnRows * stride;
  b += (threadIdx.x % kGrid) * stride;
  for (int d = 0; d < p; d += 4) {
    float4 x[kOwnRows];
    float4 y[kColumns];
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i) x[i] = load4(a + i * stride + d);
#pragma unroll
    for (int j = 0; j < kColumns; ++j) y[j] = load4(b + j * kGrid * stride + d);
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        result[i][j] = fmaf(x[i].x, y[j].x, result[i][j]);
        result[i][j] = fmaf(x[i].y, y[j].y, result[i][j]);
        result[i][j] = fmaf(x[i].z, y[j].z, result[i][j]);
        result[i][j] = fmaf(x[i].w, y[j].w, result[i][j]);
      }
    }
  }
}

// result[i][c] += sum over j < kInner of w[4 ty + i][j] * x[j][tx + 16 c]; x has p columns, w kInner of them. Columns
// past p hold copies of the last one and are never stored.
template <int kInner, int kChunks>
__device__ void multiply_by_columns(const float* w, const float* x, int p, float (&result)[kOwnRows][kChunks]) {
  constexpr int kStride = tile_stride(kInner);
  const int stride = tile_stride(p);
  w += (threadIdx.x / kGrid) * kOwnRows * kStride;
  int column[kChunks];
#pragma unroll
  for (int c = 0; c < kChunks; ++c) column[c] = min(static_cast<int>(threadIdx.x % kGrid) + c * kGrid, p - 1);
#pragma unroll 2
  for (int j = 0; j < kInner; j += 4) {
    float weights[kOwnRows][4];
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i) {
      const float4 v = load4(w + i * kStride + j);
      weights[i][0] = v.x;
      weights[i][1] = v.y;
      weights[i][2] = v.z;
      weights[i][3] = v.w;
    }
#pragma unroll
    for (int jj = 0; jj < 4; ++jj) {
      const float* row = x + (j + jj) * stride;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const float value = row[column[c]];
#pragma unroll
        for (int i = 0; i < kOwnRows; ++i) result[i][c] = fmaf(weights[i][jj], value, result[i][c]);
      }
    }
  }
}

// Writes a thread's part of a result tile of p columns; rows from `valid` on are left out.
template <int kChunks>
__device__ void store_result(float* dst, int64_t dst_stride, int64_t valid, int p, bool accumulate,
                             const float (&result)[kOwnRows][kChunks]) {
#pragma unroll
  for (int i = 0; i < kOwnRows; ++i) {
    const int row = (threadIdx.x / kGrid) * kOwnRows + i;
    if (row >= valid) continue;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int column = threadIdx.x % kGrid + c * kGrid;
      if (column >= p) continue;
      float& target = dst[row * dst_stride + column];
      target = accumulate ? target + result[i][c] : result[i][c];
    }
  }
}

// exp(min(d, 0)) that lets NaN through.
__device__ inline float exp_nonpositive(float d) { return expf(d > 0.0F ? 0.0F : d); }

// Sequence of the block (blockIdx.z), and its causal limit.
struct Sequence {
  int64_t q_begin, queries, k_begin, keys;
  bool causal;

  __device__ Sequence(const AttentionRanges& r, bool is_causal)
      : q_begin(r.q_begin[blockIdx.z]),
        queries(r.q_end[blockIdx.z] - q_begin),
        k_begin(r.k_begin[blockIdx.z]),
        keys(r.k_end[blockIdx.z] - k_begin),
        causal(is_causal) {}
  // Number of keys that query i sees.
  __device__ int64_t visible(int64_t i) const { return causal ? min(keys, keys - queries + i + 1) : keys; }
};

// Calls f(integral_constant c): c chunks of 16 columns hold a head. Few values only, to keep the build short.
template <class F>
void dispatch_chunks(int64_t head_dim, F&& f) {
  const int64_t chunks = (head_dim + kGrid - 1) / kGrid;
  if (chunks <= 2) return f(std::integral_constant<int, 2>{});
  if (chunks == 4) return f(std::integral_constant<int, 4>{});
  if (chunks == 5) return f(std::integral_constant<int, 5>{});
  f(std::integral_constant<int, 8>{});
}

// Grid of (tiles of the longest sequence, heads, sequences); Error when there are too many.
inline dim3 attention_grid(const AttentionRanges& r, int64_t longest, int64_t tile, int64_t heads) {
  check(heads <= 65535 && r.batch <= 65535, "[attention] on a GPU: found ", heads, " heads and ", r.batch,
        " sequences, expected at most 65535 of each");
  return dim3(static_cast<unsigned>((longest + tile - 1) / tile), static_cast<unsigned>(heads),
              static_cast<unsigned>(r.batch));
}

// Launches a kernel that needs `floats` floats of dynamic shared memory.
template <class Args>
void launch(Context& ctx, void (*kernel)(Args), dim3 grid, int64_t floats, const Args& args) {
  const int64_t bytes = floats * static_cast<int64_t>(sizeof(float));
  check(bytes <= ctx.cuda()->max_shared_memory(), "[attention] needs ", bytes,
        " bytes of shared memory a block, the GPU has ", ctx.cuda()->max_shared_memory());
  MATVLM_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  kernel<<<grid, kThreads, static_cast<size_t>(bytes), cuda_stream(ctx)>>>(args);
  MATVLM_LAUNCH_CHECK();
}

}  // namespace attention_kernels
}  // namespace matvlm
