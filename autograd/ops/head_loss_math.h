// Functions of one logit for the row kernels of head_loss. The float overloads, for CPU and GPU, are free of branches
// and calls, so that the compiler vectorises the loops around them; their errors are about 1e-7 relative. The generic
// ones (double, complex) are the plain formulas.
#pragma once

#include <bit>
#include <cstdint>

#include "core/dtype.h"
#include "core/scalar.h"

namespace matvlm {

// exp(x): 0 below -87, NaN for NaN, no overflow handling beyond 88 (arguments here are at most about 0).
MATVLM_HOST_DEVICE inline float row_exp(float x) {
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
  const float z = x * 1.44269504F + kRound;
  const float n = z - kRound;
  const float r = (x - n * 0.693359375F) + n * 2.12194440e-4F;  // x - n log 2, the first product exact
  float y = 1.0F / 5040;
  y = y * r + 1.0F / 720;
  y = y * r + 1.0F / 120;
  y = y * r + 1.0F / 24;
  y = y * r + 1.0F / 6;
  y = y * r + 0.5F;
  y = y * r + 1.0F;
  y = y * r + 1.0F;
  const float scale = std::bit_cast<float>((std::bit_cast<uint32_t>(z) << 23) + 0x3f800000U);
  return x < -87.0F ? 0.0F : y * scale;
}
template <class S>
S row_exp(const S& x) {
  return scalar_exp(x);
}

// log((1 + e) / 2) for e in [0, 1], exactly 0 at 1: 2 atanh((e - 1) / (e + 3)) as a series, whose argument is at most
// 1/3.
MATVLM_HOST_DEVICE inline float log_half_plus(float e) {
  const float v = (e - 1.0F) / (e + 3.0F);
  const float u = v * v;
  float y = 1.0F / 17;
  y = y * u + 1.0F / 15;
  y = y * u + 1.0F / 13;
  y = y * u + 1.0F / 11;
  y = y * u + 1.0F / 9;
  y = y * u + 1.0F / 7;
  y = y * u + 1.0F / 5;
  y = y * u + 1.0F / 3;
  return 2.0F * v * (y * u + 1.0F);
}
template <class S>
S log_half_plus(const S& e) {
  return scalar_log((S(1) + e) * S(0.5));
}

// One element of KL(p || q) for d = log q - log p: p (e^d - 1 - d). As both distributions sum to 1 this is the same sum
// as that of -p d, but no term is negative, so nothing cancels where the two are close.
MATVLM_HOST_DEVICE inline float kl_element(float p, float q, float d) {
  float y = 1.0F / 362880;
  y = y * d + 1.0F / 40320;
  y = y * d + 1.0F / 5040;
  y = y * d + 1.0F / 720;
  y = y * d + 1.0F / 120;
  y = y * d + 1.0F / 24;
  y = y * d + 1.0F / 6;
  y = y * d + 0.5F;
  const float near = p * (d * d * y);
  const float far = (q - p) - p * d;
  return d < 0.5F && d > -0.5F ? near : far;
}
template <class S>
S kl_element(const S& p, const S& q, const S& d) {
  return (q - p) - p * d;
}

// One element of (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2 and d = log q - log p:
// m (a tanh a - log cosh a), a = |d| / 2.
MATVLM_HOST_DEVICE inline float jsd_element(float p, float q, float d) {
  const float a = (d < 0.0F ? -d : d) * 0.5F;
  const float e = row_exp(-2.0F * a);
  const float far = -log_half_plus(e) - 2.0F * a * e / (1.0F + e);
  const float u = a * a;
  float y = -691.0F / 85050;
  y = y * u + 31.0F / 1575;
  y = y * u - 17.0F / 360;
  y = y * u + 1.0F / 9;
  y = y * u - 0.25F;
  y = y * u + 0.5F;
  return 0.5F * (p + q) * (a < 0.3F ? u * y : far);
}
template <class S>
S jsd_element(const S& p, const S& q, const S& d) {
  const S a = real_part(d) < 0 ? d * S(-0.5) : d * S(0.5);
  const S e = scalar_exp(S(-2) * a);
  return S(0.5) * (p + q) * (-log_half_plus(e) - S(2) * a * e / (S(1) + e));
}

// log(q / m), m = (p + q) / 2, for d = log q - log p: -log((1 + e^-d) / 2) without overflow, exactly 0 at d = 0.
MATVLM_HOST_DEVICE inline float log_over_mean(float d) {
  const float e = row_exp(d < 0.0F ? d : -d);
  return (d < 0.0F ? d : 0.0F) - log_half_plus(e);
}
template <class S>
S log_over_mean(const S& d) {
  if (real_part(d) < 0) return d - log_half_plus(scalar_exp(d));
  return -log_half_plus(scalar_exp(-d));
}

}  // namespace matvlm
