// Layer normalisation on the CPU, for float, double and std::complex<double>; see layer_norm.h.
#pragma once

#include "autograd/ops/layer_norm.h"
#include "autograd/ops/reduce_cpu.h"
#include "autograd/ops/row_sum.h"
#include "core/scalar.h"

namespace matvlm {

template <class T>
void layer_norm_forward_cpu(const LayerNormForward<T, T>& a) {
  const T scale = T(1) / T(static_cast<double>(a.cols));
#pragma omp parallel for if (a.rows * a.cols > 16384)
  for (int64_t r = 0; r < a.rows; ++r) {
    const T* x = a.x + r * a.x_stride;
    T* y = a.y + r * a.y_stride;
    const T mean = scale * row_sum<T>(a.cols, [=](int64_t c) { return x[c]; });
    const T variance = scale * row_sum<T>(a.cols, [=](int64_t c) { return (x[c] - mean) * (x[c] - mean); });
    const T inv_std = T(1) / scalar_sqrt(variance + T(a.eps));
    for (int64_t c = 0; c < a.cols; ++c) y[c] = (x[c] - mean) * inv_std * a.w[c] + a.b[c];
    a.mean[r] = mean;
    a.inv_std[r] = inv_std;
  }
}

// With n = (x - mean) / std and g = dy * w: dx = (g - mean(g) - n * mean(g * n)) / std.
template <class T>
void layer_norm_backward_cpu(const LayerNormBackward<T, T>& a) {
  if (a.dx != nullptr) {
    const T scale = T(1) / T(static_cast<double>(a.cols));
#pragma omp parallel for if (a.rows * a.cols > 16384)
    for (int64_t r = 0; r < a.rows; ++r) {
      const T* dy = a.dy + r * a.dy_stride;
      const T* x = a.x + r * a.x_stride;
      const T* w = a.w;
      T* dx = a.dx + r * a.dx_stride;
      const T mean = a.mean[r];
      const T inv_std = a.inv_std[r];
      const T mean_g = scale * row_sum<T>(a.cols, [=](int64_t c) { return dy[c] * w[c]; });
      const T mean_gn = scale * row_sum<T>(a.cols, [=](int64_t c) { return dy[c] * w[c] * ((x[c] - mean) * inv_std); });
      for (int64_t c = 0; c < a.cols; ++c) {
        const T value = inv_std * (dy[c] * w[c] - mean_g - (x[c] - mean) * inv_std * mean_gn);
        dx[c] = a.accumulate ? dx[c] + value : value;
      }
    }
  }
  if (a.dw != nullptr) {
    const auto value = [=](int64_t r, int64_t c) {
      return a.dy[r * a.dy_stride + c] * ((a.x[r * a.x_stride + c] - a.mean[r]) * a.inv_std[r]);
    };
    add_column_sums_of(a.rows, a.cols, value, a.dw);
  }
  if (a.db != nullptr) add_column_sums_cpu(a.rows, a.cols, a.dy, a.dy_stride, a.db);
}

}  // namespace matvlm
