// Scalar mathematics for CPU ops that are templated on float, double and std::complex<double>. The complex instance
// exists for the complex-step derivative f'(x) = Im f(x + ih) / h, so comparisons look at real parts only and functions
// that std::complex lacks (erf) are extended analytically to first order.
#pragma once

#include <cmath>
#include <complex>
#include <numbers>

namespace matvlm {

inline float real_part(float x) { return x; }
inline double real_part(double x) { return x; }
inline double real_part(const std::complex<double>& x) { return x.real(); }

template <class T>
T scalar_exp(const T& x) {
  using std::exp;
  return exp(x);
}
template <class T>
T scalar_log(const T& x) {
  using std::log;
  return log(x);
}
template <class T>
T scalar_sqrt(const T& x) {
  using std::sqrt;
  return sqrt(x);
}
template <class T>
T scalar_tanh(const T& x) {
  using std::tanh;
  return tanh(x);
}
inline float scalar_erf(float x) { return std::erf(x); }
inline double scalar_erf(double x) { return std::erf(x); }
// erf(a + ib) = erf(a) + ib * 2/sqrt(pi) * exp(-a^2) + O(b^2)
inline std::complex<double> scalar_erf(const std::complex<double>& x) {
  const double a = x.real();
  return {std::erf(a), x.imag() * 2.0 * std::numbers::inv_sqrtpi * std::exp(-a * a)};
}
template <class T>
T scalar_sigmoid(const T& x) {
  // exp of a non-positive number only: no overflow at either end.
  if (real_part(x) >= 0) return T(1) / (T(1) + scalar_exp(-x));
  const T e = scalar_exp(x);
  return e / (T(1) + e);
}
inline float scalar_log1p(float x) { return std::log1p(x); }
inline double scalar_log1p(double x) { return std::log1p(x); }
inline std::complex<double> scalar_log1p(const std::complex<double>& x) {
  return {std::log1p(x.real()), x.imag() / (1.0 + x.real())};
}
template <class T>
T scalar_softplus(const T& x) {
  // log(1 + e^x) without overflow: max(x, 0) + log1p(e^-|x|).
  if (real_part(x) > 0) return x + scalar_log1p(scalar_exp(-x));
  return scalar_log1p(scalar_exp(x));
}
template <class T>
T scalar_silu(const T& x) {
  return x * scalar_sigmoid(x);
}

}  // namespace matvlm
