// Second stage of the parameter gradients of bandwidth-bound kernels: ordered sums over the tiles of tokens.
#pragma once

#include <cstdint>

#include "core/cuda_context.h"

namespace matvlm {

constexpr int kSumColumns = 32;

// For blocks of kSumColumns x kRows threads: the sum of partial[i, column] over i < tiles, in an order that depends on
// `tiles` alone. Every thread of the block calls it; those with threadIdx.y == 0 get the sum. A column past the end is
// allowed (0). kRows: many where columns are few, so that no thread adds up more than it can ask for at once.
template <int kRows>
__device__ float sum_tiles(const float* partial, int64_t tiles, int64_t columns, int64_t column) {
  __shared__ float sums[kRows][kSumColumns];
  float sum = 0.0F;
  if (column < columns) {
#pragma unroll 4
    for (int64_t i = threadIdx.y; i < tiles; i += kRows) sum += partial[i * columns + column];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  float total = 0.0F;
#pragma unroll
  for (int i = 0; i < kRows; ++i) total += sums[i][threadIdx.x];
  return total;
}

inline unsigned sum_blocks(int64_t columns) { return static_cast<unsigned>((columns + kSumColumns - 1) / kSumColumns); }

constexpr int kFewColumnsRows = 16;

static __global__ void __launch_bounds__(kSumColumns* kFewColumnsRows)
    column_sums_kernel(const float* partial, int64_t tiles, int64_t columns, float* sums) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kSumColumns + threadIdx.x;
  const float sum = sum_tiles<kFewColumnsRows>(partial, tiles, columns, column);
  if (threadIdx.y == 0 && column < columns) sums[column] += sum;
}

// Of a few thousand columns: sums [columns] += the sum over tiles of partial [tiles, columns].
inline void add_column_sums(Context& ctx, const float* partial, int64_t tiles, int64_t columns, float* sums) {
  column_sums_kernel<<<sum_blocks(columns), dim3(kSumColumns, kFewColumnsRows), 0, cuda_stream(ctx)>>>(partial, tiles,
                                                                                                       columns, sums);
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm
