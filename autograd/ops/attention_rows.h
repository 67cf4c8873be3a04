// Row operations of attention on the CPU: maximum, exponentials, dot product. The float versions are written so that
// the compiler turns them into vector code, which std::exp is not; double and complex take the standard functions.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <complex>
#include <cstdint>

#include "core/scalar.h"

namespace matvlm {

// e^x for x <= 0 (larger x counts as 0, NaN stays NaN), 2 ulp; below -87.3 the result is 0. x = n ln2 + r with
// |r| <= ln2/2; ln2 in two parts, so that r has no cancellation error; e^r by its Taylor polynomial of degree 7.
inline float exp_nonpositive(float x) {
  constexpr float kLog2e = 1.44269504F;
  constexpr float kLn2High = 0.693359375F;
  constexpr float kLn2Low = -2.12194440e-4F;
  constexpr float kSmallest = -87.3F;    // e^x is still a normal number
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
  x = x > 0.0F ? 0.0F : x;
  const float clamped = x < kSmallest ? kSmallest : x;
  const float shifted = clamped * kLog2e + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;
  float y = 1.0F / 5040;
  y = y * r + 1.0F / 720;
  y = y * r + 1.0F / 120;
  y = y * r + 1.0F / 24;
  y = y * r + 1.0F / 6;
  y = y * r + 0.5F;
  y = y * r + 1.0F;
  y = y * r + 1.0F;
  const uint32_t exponent = (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kRound) + 127U) << 23;
  const float power = y * std::bit_cast<float>(exponent);
  return x < kSmallest ? 0.0F : power;
}

// The largest of n > 0 values, complex ones by their real parts. A NaN among them may be lost here; it comes back
// through the exponential.
template <class T>
T row_max(const T* s, int64_t n) {
  T max = s[0];
  for (int64_t i = 1; i < n; ++i) {
    if (real_part(s[i]) > real_part(max)) max = s[i];
  }
  return max;
}
template <>
inline float row_max<float>(const float* s, int64_t n) {
  float max = s[0];
#pragma omp simd reduction(max : max)
  for (int64_t i = 0; i < n; ++i) max = std::max(max, s[i]);
  return max;
}

// s <- exp(min(s - shift, 0)), returns the sum.
template <class T>
T row_exp_sum(T* s, int64_t n, const T& shift) {
  T sum = T(0);
  for (int64_t i = 0; i < n; ++i) {
    const T d = s[i] - shift;
    // By rounding alone, a logit may exceed the log-sum-exp it went into.
    s[i] = real_part(d) > 0 ? T(1) : scalar_exp(d);
    sum += s[i];
  }
  return sum;
}
template <>
inline float row_exp_sum<float>(float* s, int64_t n, const float& shift) {
  const float m = shift;
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    s[i] = exp_nonpositive(s[i] - m);
    sum += s[i];
  }
  return sum;
}

template <class T>
T row_dot(const T* x, const T* y, int64_t n) {
  T sum = T(0);
  for (int64_t i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}
template <>
inline float row_dot<float>(const float* x, const float* y, int64_t n) {
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

}  // namespace matvlm
