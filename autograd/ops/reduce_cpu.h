// Ordered reductions on the CPU; see reduce.h. A sum over rows goes in blocks of kRowBlock, whose totals are added in
// order: smaller rounding errors than one long sum, and the same bits for any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/dtype.h"

namespace matvlm {

// dst[c] += sum over r of value(r, c), for columns [begin, end), end - begin <= kColumnBlock.
inline constexpr int64_t kRowBlock = 64;
inline constexpr int64_t kColumnBlock = 64;

template <class S, class Value>
void add_column_sums_block(int64_t rows, int64_t begin, int64_t end, const Value& value, S* dst) {
  S total[kColumnBlock] = {};
  for (int64_t r0 = 0; r0 < rows; r0 += kRowBlock) {
    S partial[kColumnBlock] = {};
    for (int64_t r = r0; r < std::min(rows, r0 + kRowBlock); ++r) {
      for (int64_t c = begin; c < end; ++c) partial[c - begin] += value(r, c);
    }
    for (int64_t c = begin; c < end; ++c) total[c - begin] += partial[c - begin];
  }
  for (int64_t c = begin; c < end; ++c) dst[c] += total[c - begin];
}

// The same over all columns. value(r, c) must be cheap: it is called once per element, columns innermost.
template <class S, class Value>
void add_column_sums_of(int64_t rows, int64_t cols, const Value& value, S* dst) {
#pragma omp parallel for if (rows * cols > 32768)
  for (int64_t begin = 0; begin < cols; begin += kColumnBlock) {
    add_column_sums_block(rows, begin, std::min(cols, begin + kColumnBlock), value, dst);
  }
}

template <class T, class S>
void add_column_sums_cpu(int64_t rows, int64_t cols, const T* src, int64_t stride, S* dst) {
  add_column_sums_of(
      rows, cols, [=](int64_t r, int64_t c) { return static_cast<S>(src[r * stride + c]); }, dst);
}

// Blocks of fixed length, each with kSquareLanes interleaved sums, then the blocks in order.
inline double sum_squares_cpu(int64_t n, const float* x) {
  constexpr int64_t kBlock = 16384;
  constexpr int64_t kSquareLanes = 16;
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  std::vector<double> totals(static_cast<size_t>(blocks));
#pragma omp parallel for if (n > 65536)
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t end = std::min(n, (b + 1) * kBlock);
    double lanes[kSquareLanes] = {};
    int64_t i = b * kBlock;
    for (; i + kSquareLanes <= end; i += kSquareLanes) {
      for (int64_t k = 0; k < kSquareLanes; ++k)
        lanes[k] += static_cast<double>(x[i + k]) * static_cast<double>(x[i + k]);
    }
    for (; i < end; ++i) lanes[0] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    double total = 0;
    for (const double lane : lanes) total += lane;
    totals[static_cast<size_t>(b)] = total;
  }
  double total = 0;
  for (const double t : totals) total += t;
  return total;
}

}  // namespace matvlm
