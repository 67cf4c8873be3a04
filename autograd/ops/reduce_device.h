// GPU launchers of reduce.h (reduce.cu); reduce_no_cuda.cpp throws.
#pragma once

#include <cstdint>

#include "core/context.h"
#include "core/dtype.h"

namespace matvlm {

// Row chunks of the first stage: a function of the shape alone.
constexpr int64_t kReduceRows = 128;
inline int64_t reduce_chunks(int64_t rows) {
  const int64_t chunks = (rows + kReduceRows - 1) / kReduceRows;
  return chunks < 256 ? chunks : 256;
}

// partial: scratch [reduce_chunks(rows), cols].
void add_column_sums_cuda(Context& ctx, int64_t rows, int64_t cols, const void* src, int64_t stride, DType dtype,
                          float* partial, float* dst);

// dst[c] += sum over i of partial[i, c], in order: the second stage, also for the norms' weight gradients.
void add_partials_cuda(Context& ctx, int64_t chunks, int64_t cols, const float* partial, float* dst);

constexpr int64_t kSquaresBlock = 65536;  // elements a block of threads sums
// partial: scratch [ceil(n / kSquaresBlock)]; result: one double, both on the device.
void sum_squares_cuda(Context& ctx, int64_t n, const float* x, double* partial, double* result);

}  // namespace matvlm
