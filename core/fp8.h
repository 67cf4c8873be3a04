// fp8: the 8-bit float e4m3 (4 bits exponent, 3 bits fraction; OCP "E4M3": largest 448, no infinity), and matrices of
// such numbers with one scale per row.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "core/dtype.h"
#include "core/tensor.h"

namespace matvlm {

// By its bits; tensors hold them as u8. Conversion from float rounds to nearest even; what is larger than 448 becomes
// 448, infinity too; NaN stays NaN. The same results as the GPU's cvt.rn.satfinite.
struct e4m3 {
  uint8_t bits = 0;
  e4m3() = default;
  MATVLM_HOST_DEVICE explicit e4m3(float x) {
    const auto u = std::bit_cast<uint32_t>(x);
    const uint32_t sign = (u >> 24) & 0x80U;
    const uint32_t magnitude = u & 0x7fffffffU;
    uint32_t code = 0;
    if (magnitude > 0x7f800000U) {
      code = 0x7fU;
    } else if (magnitude >= 0x43e00000U) {  // 448
      code = 0x7eU;
    } else if (magnitude < 0x3c800000U) {
      // Below 2^-6 the result is a multiple of 2^-9, and the addition of 2^14 rounds to one: its ulp is 2^-9.
      code = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 16384.0F) - 0x46800000U;
    } else {
      code = ((magnitude + 0x7ffffU + ((magnitude >> 20) & 1U)) >> 20) - (120U << 3);
    }
    bits = static_cast<uint8_t>(sign | code);
  }
  MATVLM_HOST_DEVICE explicit operator float() const {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x80U) << 24;
    const uint32_t code = bits & 0x7fU;
    if (code == 0x7fU) return std::bit_cast<float>(sign | 0x7fc00000U);
    if (code < 8) {  // zero and subnormal: exact in float
      const float magnitude = static_cast<float>(code) * 0x1p-9F;
      return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
    }
    return std::bit_cast<float>(sign | ((code << 20) + (120U << 23)));
  }
};

// Scale of a row whose largest magnitude has these bits (as float32, sign bit 0): the smallest power of two that brings
// it to at most 448. A power of two changes no digit, so e4m3's own rounding is the only one, and the format's relative
// precision does not depend on where in its range a row lies. Rows below 2^-92 lose precision, then become 0. The scale
// of a row with a NaN or an infinity is NaN, so that neither is hidden by the format's saturation.
struct Fp8Scale {
  float scale;    // multiplies the stored numbers
  float inverse;  // multiplies what is to be stored
};
MATVLM_HOST_DEVICE inline Fp8Scale fp8_scale(uint32_t largest_bits) {
  if (largest_bits >= 0x7f800000U) {
    const float nan = std::bit_cast<float>(0x7fc00000U);
    return {nan, nan};
  }
  constexpr int32_t kSmallest = -100;
  const auto exponent = static_cast<int32_t>(largest_bits >> 23) - 127;
  int32_t power = exponent - 8 + ((largest_bits & 0x7fffffU) > 0x600000U ? 1 : 0);  // 448 = 1.75 * 2^8
  power = power < kSmallest ? kSmallest : power;
  return {std::bit_cast<float>(static_cast<uint32_t>(127 + power) << 23),
          std::bit_cast<float>(static_cast<uint32_t>(127 - power) << 23)};
}

// A matrix in fp8: element (r, c) is values(r, c) * scale(r).
struct Fp8Matrix {
  Tensor values;  // u8 [R, C], bits of e4m3, contiguous
  Tensor scale;   // f32 [R]
  bool defined() const { return values.defined(); }
};

}  // namespace matvlm
