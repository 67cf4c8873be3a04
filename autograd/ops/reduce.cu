// Ordered reductions on the GPU: chunks first, then the chunks in order.
#include "autograd/ops/elementwise.cuh"
#include "autograd/ops/reduce_device.h"

namespace matvlm {
namespace {

constexpr int kTileCols = 32;
constexpr int kTileRows = 8;

// Block (x, y): 32 columns, row chunk y. Thread (i, j) sums every 8th row of the chunk from row j, then the 8 sums are
// added in order.
template <class T>
__global__ void column_chunk_kernel(int64_t rows, int64_t cols, int64_t rows_per_chunk, const T* src, int64_t stride,
                                    float* partial) {
  __shared__ float tile[kTileRows][kTileCols];
  const int64_t col = static_cast<int64_t>(blockIdx.x) * kTileCols + threadIdx.x;
  const int64_t begin = blockIdx.y * rows_per_chunk;
  const int64_t end = min(rows, begin + rows_per_chunk);
  float sum = 0;
  if (col < cols) {
    for (int64_t r = begin + threadIdx.y; r < end; r += kTileRows) sum += load_float(src + r * stride + col);
  }
  tile[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || col >= cols) return;
  float total = 0;
  for (int j = 0; j < kTileRows; ++j) total += tile[j][threadIdx.x];
  partial[blockIdx.y * cols + col] = total;
}

__global__ void add_partials_kernel(int64_t chunks, int64_t cols, const float* partial, float* dst) {
  const int64_t col = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (col >= cols) return;
  float total = 0;
  for (int64_t i = 0; i < chunks; ++i) total += partial[i * cols + col];
  dst[col] += total;
}

constexpr int kSquareThreads = 256;

__global__ void squares_kernel(int64_t n, const float* x, double* partial) {
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kSquaresBlock;
  const int64_t end = min(n, begin + kSquaresBlock);
  double sum = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kSquareThreads) {
    const double value = static_cast<double>(x[i]);
    sum += value * value;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void sum_partials_kernel(int64_t n, const double* partial, double* result) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kSquareThreads) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *result = sum;
}

unsigned blocks_of(int64_t n, int64_t per_block) { return static_cast<unsigned>((n + per_block - 1) / per_block); }

}  // namespace

void add_column_sums_cuda(Context& ctx, int64_t rows, int64_t cols, const void* src, int64_t stride, DType dtype,
                          float* partial, float* dst) {
  if (rows == 0 || cols == 0) return;
  const int64_t chunks = reduce_chunks(rows);
  const int64_t rows_per_chunk = (rows + chunks - 1) / chunks;
  const dim3 grid(blocks_of(cols, kTileCols), static_cast<unsigned>(chunks));
  dispatch_float("add_column_sums", dtype, [&](auto type) {
    using T = decltype(type);
    column_chunk_kernel<<<grid, dim3(kTileCols, kTileRows), 0, cuda_stream(ctx)>>>(
        rows, cols, rows_per_chunk, static_cast<const T*>(src), stride, partial);
  });
  MATVLM_LAUNCH_CHECK();
  add_partials_cuda(ctx, chunks, cols, partial, dst);
}

void add_partials_cuda(Context& ctx, int64_t chunks, int64_t cols, const float* partial, float* dst) {
  if (cols == 0) return;
  add_partials_kernel<<<blocks_of(cols, 128), 128, 0, cuda_stream(ctx)>>>(chunks, cols, partial, dst);
  MATVLM_LAUNCH_CHECK();
}

void sum_squares_cuda(Context& ctx, int64_t n, const float* x, double* partial, double* result) {
  const unsigned blocks = blocks_of(n, kSquaresBlock);
  if (blocks > 0) {
    squares_kernel<<<blocks, kSquareThreads, 0, cuda_stream(ctx)>>>(n, x, partial);
    MATVLM_LAUNCH_CHECK();
  }
  sum_partials_kernel<<<1, kSquareThreads, 0, cuda_stream(ctx)>>>(blocks, partial, result);
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm
