// Conversion to fp8 on the CPU; see quantize.h. The GPU computes the same bits.
#pragma once

#include <algorithm>
#include <bit>

#include "autograd/ops/quantize.h"

namespace matvlm {

template <class T>
void quantize_cpu(const QuantizeArgs<T>& a) {
#pragma omp parallel for if (a.rows * a.cols > 16384)
  for (int64_t r = 0; r < a.rows; ++r) {
    const T* x = a.x + r * a.x_stride;
    const auto value = [&](int64_t c) {
      const auto v = static_cast<float>(x[c]);
      return a.factor != nullptr ? v * a.factor[c] : v;
    };
    // Compared as integers, magnitudes order as floats do, with infinity and NaN above all others.
    uint32_t largest = 0;
    for (int64_t c = 0; c < a.cols; ++c) largest = std::max(largest, std::bit_cast<uint32_t>(value(c)) & 0x7fffffffU);
    const Fp8Scale scale = fp8_scale(largest);
    for (int64_t c = 0; c < a.cols; ++c) a.values[r * a.cols + c] = e4m3(value(c) * scale.inverse).bits;
    a.scale[r] = scale.scale;
  }
}

inline void transpose_bytes_cpu(int64_t rows, int64_t cols, const uint8_t* x, uint8_t* y) {
  constexpr int64_t kTile = 64;
#pragma omp parallel for if (rows * cols > 65536)
  for (int64_t c0 = 0; c0 < cols; c0 += kTile) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = c0; c < std::min(c0 + kTile, cols); ++c) y[c * rows + r] = x[r * cols + c];
    }
  }
}

}  // namespace matvlm
