// Rotary embedding on the CPU, for float, double and std::complex<double>.
#pragma once

#include <cmath>
#include <cstdint>

#include "autograd/ops/rotary.h"

namespace matvlm {

// Row of the cosine/sine table that serves token t. Packed rows count 0, 1, 2, ... again for every sample, so mostly a
// row of the first sample does, and the (slow, double) trigonometry is not repeated.
inline int64_t rotary_table_row(const int32_t* positions, int64_t t) {
  const int64_t p = positions[t];
  return p >= 0 && p < t && positions[p] == p ? p : t;
}

// table [T, R]: R/2 cosines, then R/2 sines.
template <class T>
void rotary_table_cpu(const RotaryArgs<T>& a, T* table) {
  const int64_t half = a.rotary_dims / 2;
#pragma omp parallel for schedule(static)
  for (int64_t t = 0; t < a.tokens; ++t) {
    if (rotary_table_row(a.positions, t) != t) continue;
    T* row = table + t * a.rotary_dims;
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(a.positions[t]) * rotary_frequency(a, i);
      row[i] = static_cast<T>(std::cos(angle));
      row[half + i] = static_cast<T>(std::sin(angle));
    }
  }
}

// One token: its H heads.
template <class T>
void rotary_row_cpu(const RotaryArgs<T>& a, const T* cosines, const T* x, T* y) {
  const int64_t half = a.rotary_dims / 2;
  const T* sines = cosines + half;
  const T sign = a.inverse ? T(-1) : T(1);
  for (int64_t h = 0; h < a.heads; ++h, x += a.head_dim, y += a.head_dim) {
    const auto old = [&](int64_t i) { return a.accumulate ? y[i] : T(0); };
    for (int64_t i = 0; i < half; ++i) {
      const T first = x[i] * cosines[i] - sign * sines[i] * x[i + half];
      const T second = x[i + half] * cosines[i] + sign * sines[i] * x[i];
      y[i] = old(i) + first;
      y[i + half] = old(i + half) + second;
    }
    for (int64_t i = a.rotary_dims; i < a.head_dim; ++i) y[i] = old(i) + x[i];
  }
}

// table: scratch of tokens * rotary_dims.
template <class T>
void rotary_cpu(const RotaryArgs<T>& a, T* table) {
  rotary_table_cpu(a, table);
#pragma omp parallel for schedule(static)
  for (int64_t t = 0; t < a.tokens; ++t) {
    const int64_t row = rotary_table_row(a.positions, t);
    rotary_row_cpu(a, table + row * a.rotary_dims, a.x + t * a.x_stride, a.y + t * a.y_stride);
  }
}

}  // namespace matvlm
