// Sixteen scalars at a time for CPU ops, and the float functions that such loops need. float and double use the
// compiler's vector type, which becomes AVX-512, AVX2 or SSE registers; other scalars (the complex step) a plain array.
// A sum over lanes has one order whatever the processor, and no two lanes mix otherwise.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/scalar.h"

namespace matvlm {

constexpr int64_t kLanes = 16;
constexpr int64_t round_up_to_lanes(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// Plain array with the operators that the vector types have.
template <class S>
struct ArrayLanes {
  S v[kLanes];
  ArrayLanes& operator+=(const ArrayLanes& o) {
    for (int64_t i = 0; i < kLanes; ++i) v[i] += o.v[i];
    return *this;
  }
  ArrayLanes& operator*=(const S& s) {
    for (S& x : v) x *= s;
    return *this;
  }
  friend ArrayLanes operator+(ArrayLanes a, const ArrayLanes& b) { return a += b; }
  friend ArrayLanes operator*(ArrayLanes a, const S& s) { return a *= s; }
  friend ArrayLanes operator*(const S& s, ArrayLanes a) { return a *= s; }
  friend ArrayLanes operator*(ArrayLanes a, const ArrayLanes& b) {
    for (int64_t i = 0; i < kLanes; ++i) a.v[i] *= b.v[i];
    return a;
  }
  S& operator[](int64_t i) { return v[i]; }
  const S& operator[](int64_t i) const { return v[i]; }
};

template <class S>
struct LanesOf {
  using type = ArrayLanes<S>;
};
// Alignment of the element: lanes are read and written in place anywhere in an array.
template <>
struct LanesOf<float> {
  typedef float type __attribute__((vector_size(64), aligned(4), may_alias));
};
template <>
struct LanesOf<double> {
  typedef double type __attribute__((vector_size(128), aligned(8), may_alias));
};
template <class S>
using Lanes = typename LanesOf<S>::type;

template <class S>
Lanes<S>& lanes_at(S* p) {
  return *reinterpret_cast<Lanes<S>*>(p);
}
template <class S>
const Lanes<S>& lanes_at(const S* p) {
  return *reinterpret_cast<const Lanes<S>*>(p);
}

// Pairwise sum of the lanes.
template <class S>
S sum_lanes(const Lanes<S>& lanes) {
  static_assert(kLanes == 16);
  S part[8];
  for (int64_t i = 0; i < 8; ++i) part[i] = lanes[i] + lanes[i + 8];
  for (int64_t i = 0; i < 4; ++i) part[i] += part[i + 4];
  return (part[0] + part[2]) + (part[1] + part[3]);
}

// Calls f(tiles, first) for ranges of 1 to 4 tiles of kLanes elements that cover [0, n), n a multiple of kLanes;
// `tiles` is a std::integral_constant, so that f can keep its sums in registers.
template <class F>
void for_tiles(int64_t n, F&& f) {
  int64_t first = 0;
  for (; n - first >= 4 * kLanes; first += 4 * kLanes) f(std::integral_constant<int, 4>{}, first);
  const int64_t rest = (n - first) / kLanes;
  if (rest == 3) f(std::integral_constant<int, 3>{}, first);
  if (rest == 2) f(std::integral_constant<int, 2>{}, first);
  if (rest == 1) f(std::integral_constant<int, 1>{}, first);
}

// exp for loops that the compiler vectorises: branch-free, relative error below 2e-7 for results in float's normal
// range, 0 below it (x < -87.3) and +inf above it (x > 88.7).
inline float simd_exp(float x) {
  const float clamped = x < -87.33F ? -87.33F : (x > 88.72F ? 88.72F : x);
  // 2^n by the exponent bits; adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low mantissa bits.
  const float shifted = clamped * 1.44269504F + 12582912.0F;
  const float n = shifted - 12582912.0F;
  const float r = (clamped - n * 0.693359375F) + n * 2.12194440e-4F;  // ln 2 in two parts
  // e^r on |r| <= ln(2) / 2: Taylor to degree 7, remainder below 6e-9.
  float p = 1.0F / 5040.0F;
  p = p * r + 1.0F / 720.0F;
  p = p * r + 1.0F / 120.0F;
  p = p * r + 1.0F / 24.0F;
  p = p * r + 1.0F / 6.0F;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  // 2^n in two factors: n = 128 has no exponent of its own.
  const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(12582912.0F);
  const int32_t half = exponent >> 1;
  const float scale1 = std::bit_cast<float>(static_cast<uint32_t>(half + 127) << 23);
  const float scale2 = std::bit_cast<float>(static_cast<uint32_t>(exponent - half + 127) << 23);
  const float result = p * scale1 * scale2;
  return x < -87.33F ? 0.0F : (x > 88.72F ? std::bit_cast<float>(0x7f800000) : result);
}

// Logistic function for such loops: float by simd_exp, other scalars by core/scalar.h.
template <class S>
S simd_sigmoid(const S& x) {
  if constexpr (std::is_same_v<S, float>) {
    const float e = simd_exp(x < 0 ? x : -x);
    const float r = 1.0F / (1.0F + e);
    return x < 0 ? e * r : r;
  } else {
    return scalar_sigmoid(x);
  }
}

}  // namespace matvlm
