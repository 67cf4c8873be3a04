// Root-mean-square normalisation on the CPU, for float, double and std::complex<double>; see rms_norm.h.
#pragma once

#include "autograd/ops/reduce_cpu.h"
#include "autograd/ops/rms_norm.h"
#include "autograd/ops/row_sum.h"
#include "core/scalar.h"

namespace matvlm {

template <class T>
void rms_norm_forward_cpu(const RmsNormForward<T, T>& a) {
  const T scale = T(1) / T(static_cast<double>(a.cols));
#pragma omp parallel for if (a.rows * a.cols > 16384)
  for (int64_t r = 0; r < a.rows; ++r) {
    const T* x = a.x + r * a.x_stride;
    T* y = a.y + r * a.y_stride;
    const T square = scale * row_sum<T>(a.cols, [=](int64_t c) { return x[c] * x[c]; });
    const T inv_rms = T(1) / scalar_sqrt(square + T(a.eps));
    for (int64_t c = 0; c < a.cols; ++c) y[c] = x[c] * inv_rms * a.w[c];
    a.inv_rms[r] = inv_rms;
  }
}

// With n = x / rms and g = dy * w: dx = (g - n * mean(g * n)) / rms.
template <class T>
void rms_norm_backward_cpu(const RmsNormBackward<T, T>& a) {
  if (a.dx != nullptr) {
    const T scale = T(1) / T(static_cast<double>(a.cols));
#pragma omp parallel for if (a.rows * a.cols > 16384)
    for (int64_t r = 0; r < a.rows; ++r) {
      const T* dy = a.dy + r * a.dy_stride;
      const T* x = a.x + r * a.x_stride;
      const T* w = a.w;
      T* dx = a.dx + r * a.dx_stride;
      const T inv_rms = a.inv_rms[r];
      const T mean_gn = scale * row_sum<T>(a.cols, [=](int64_t c) { return dy[c] * w[c] * (x[c] * inv_rms); });
      for (int64_t c = 0; c < a.cols; ++c) {
        const T value = inv_rms * (dy[c] * w[c] - x[c] * inv_rms * mean_gn);
        dx[c] = a.accumulate ? dx[c] + value : value;
      }
    }
  }
  if (a.dw != nullptr) {
    const auto value = [=](int64_t r, int64_t c) {
      return a.dy[r * a.dy_stride + c] * (a.x[r * a.x_stride + c] * a.inv_rms[r]);
    };
    add_column_sums_of(a.rows, a.cols, value, a.dw);
  }
}

}  // namespace matvlm
