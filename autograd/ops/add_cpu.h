// Elementwise sums on the CPU; see add.h. Product types float and bf16 (sums in float), double and complex as oracles.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace matvlm {

template <class T>
struct AddScalar {
  using type = T;
};
template <>
struct AddScalar<bf16> {
  using type = float;
};

// dst[r, c] += src[r, c].
template <class T>
void add_into_cpu(int64_t rows, int64_t cols, const T* src, int64_t src_stride, T* dst, int64_t dst_stride) {
  using S = typename AddScalar<T>::type;
#pragma omp parallel for if (rows * cols > 32768)
  for (int64_t r = 0; r < rows; ++r) {
    const T* s = src + r * src_stride;
    T* d = dst + r * dst_stride;
    for (int64_t c = 0; c < cols; ++c) d[c] = static_cast<T>(static_cast<S>(d[c]) + static_cast<S>(s[c]));
  }
}

// dst[r, c] = sum over i of term_i[r, c], in order, rounded once.
template <class T>
void add_cpu(int64_t rows, int64_t cols, int64_t count, const T* const* terms, const int64_t* strides, T* dst,
             int64_t dst_stride) {
  using S = typename AddScalar<T>::type;
#pragma omp parallel for if (rows * cols > 32768)
  for (int64_t r = 0; r < rows; ++r) {
    T* d = dst + r * dst_stride;
    for (int64_t c = 0; c < cols; ++c) {
      S sum = static_cast<S>(terms[0][r * strides[0] + c]);
      for (int64_t i = 1; i < count; ++i) sum += static_cast<S>(terms[i][r * strides[i] + c]);
      d[c] = static_cast<T>(sum);
    }
  }
}

}  // namespace matvlm
