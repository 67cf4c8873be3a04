// e4m3 by its definition, apart from core/fp8.h: the oracle of everything in fp8.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/context.h"
#include "core/fp8.h"

namespace matvlm::testing {

// The numbers of the codes 0 ... 126 (0x7f is NaN), ascending: (-1)^s 2^(e-7) (1 + m/8), and 2^-6 m/8 for e = 0.
inline const std::array<double, 127>& e4m3_numbers() {
  static const std::array<double, 127> numbers = [] {
    std::array<double, 127> out{};
    for (int code = 0; code < 127; ++code) {
      const int exponent = code / 8;
      const double fraction = (code % 8) / 8.0;
      out[static_cast<size_t>(code)] =
          exponent == 0 ? std::ldexp(fraction, -6) : std::ldexp(1.0 + fraction, exponent - 7);
    }
    return out;
  }();
  return numbers;
}

// The code of the nearest number, of two equally near ones the even code; 448 for all that is larger.
inline uint8_t nearest_e4m3(double x) {
  if (std::isnan(x)) return 0x7f;
  const std::array<double, 127>& numbers = e4m3_numbers();
  const double magnitude = std::fabs(x);
  const auto above = static_cast<size_t>(std::lower_bound(numbers.begin(), numbers.end(), magnitude) - numbers.begin());
  size_t code = std::min<size_t>(above, 126);
  if (above > 0 && above < 127) {
    const double up = numbers[above] - magnitude;
    const double down = magnitude - numbers[above - 1];
    if (down < up || (down == up && above % 2 == 1)) code = above - 1;
  }
  return static_cast<uint8_t>(code | (std::signbit(x) ? 0x80U : 0U));
}

inline double e4m3_value(uint8_t code) {
  if ((code & 0x7f) == 0x7f) return std::nan("");
  const double magnitude = e4m3_numbers()[code & 0x7f];
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

// The smallest power of two, 2^-100 at least, that brings `largest` to at most 448.
inline double row_scale(double largest) {
  int power = -100;
  while (largest > 448.0 * std::ldexp(1.0, power)) ++power;
  return std::ldexp(1.0, power);
}

inline std::vector<uint8_t> bytes_of(Context& ctx, const Tensor& t) {
  std::vector<uint8_t> out(static_cast<size_t>(t.numel()));
  ctx.to_host(out.data(), t.raw(), t.numel());
  return out;
}

// values * scale, row by row.
inline std::vector<double> dequantized(Context& ctx, const Fp8Matrix& m) {
  const std::vector<uint8_t> codes = bytes_of(ctx, m.values);
  const std::vector<float> scales = m.scale.to_floats(ctx);
  std::vector<double> out(codes.size());
  const auto cols = static_cast<size_t>(m.values.cols());
  for (size_t i = 0; i < codes.size(); ++i) out[i] = e4m3_value(codes[i]) * static_cast<double>(scales[i / cols]);
  return out;
}

}  // namespace matvlm::testing
