// Activations on the CPU, for float, double and std::complex<double>; see activation.h. The float versions are written
// so that the compiler vectorises them: exp by simd_exp, erf by polynomials, no branches.
#pragma once

#include <cmath>
#include <numbers>
#include <type_traits>

#include "autograd/ops/activation.h"
#include "autograd/ops/lanes.h"
#include "core/scalar.h"

namespace matvlm {

// The logistic function and its derivative, neither with cancellation.
template <class T>
struct SigmoidPair {
  T value, slope;
};

template <class T>
SigmoidPair<T> sigmoid_pair(const T& z) {
  const bool negative = real_part(z) < 0;
  const T e = [&] {
    if constexpr (std::is_same_v<T, float>) return simd_exp(negative ? z : -z);
    return scalar_exp(negative ? z : -z);
  }();
  const T r = T(1) / (T(1) + e);
  return {negative ? e * r : r, e * r * r};
}

// Half the complementary error function at t >= 0: exp(-t^2 - r(t)) / 2 with r a polynomial about 3.5, fitted by
// Chebyshev interpolation on [1, 6] (relative error of the result there 3e-7); below 1 an odd polynomial for erf itself
// (2e-7). Beyond 6 the result is under 1e-17 anyway.
inline float half_erfc(float t) {
  const float square = t * t;
  float p = -0.000565410586F;
  p = p * square + 0.00492327767F;
  p = p * square - 0.0267163851F;
  p = p * square + 0.112803644F;
  p = p * square - 0.376123498F;
  p = p * square + 1.12837913F;
  const float near = 0.5F - 0.5F * p * t;
  const float u = (t < 6.0F ? t : 6.0F) - 3.5F;
  float r = 8.36097666e-8F;
  r = r * u - 7.12852402e-7F;
  r = r * u + 3.89838517e-6F;
  r = r * u - 2.37491519e-5F;
  r = r * u + 0.000147231879F;
  r = r * u - 0.000875030138F;
  r = r * u + 0.00522576196F;
  r = r * u - 0.0332459382F;
  r = r * u + 0.266099549F;
  r = r * u + 1.86243728F;
  const float far = 0.5F * simd_exp(-square - r);
  return t < 1.0F ? near : far;
}

// Distribution function of the standard normal.
template <class T>
T normal_cdf(const T& x) {
  constexpr double kInvSqrt2 = 1.0 / std::numbers::sqrt2;
  if constexpr (std::is_same_v<T, float>) {
    const float tail = half_erfc(std::fabs(x) * static_cast<float>(kInvSqrt2));
    return x < 0 ? tail : 1.0F - tail;
  } else {
    return T(0.5) * (T(1) + scalar_erf(x * T(kInvSqrt2)));
  }
}

// (1 + tanh(u)) / 2 is the logistic function at 2u.
struct GeluTanh {
  static constexpr double kScale = 2.0 * std::numbers::inv_sqrtpi * std::numbers::sqrt2;  // 2 sqrt(2/pi)
  static constexpr double kCubic = 0.044715;
  template <class T>
  static T value(const T& x) {
    return x * sigmoid_pair<T>(T(kScale) * (x + T(kCubic) * x * x * x)).value;
  }
  template <class T>
  static T slope(const T& x) {
    const SigmoidPair<T> s = sigmoid_pair<T>(T(kScale) * (x + T(kCubic) * x * x * x));
    return s.value + x * s.slope * T(kScale) * (T(1) + T(3 * kCubic) * x * x);
  }
};

struct GeluErf {
  template <class T>
  static T value(const T& x) {
    return x * normal_cdf<T>(x);
  }
  template <class T>
  static T slope(const T& x) {
    constexpr double kDensity = std::numbers::inv_sqrtpi / std::numbers::sqrt2;  // 1 / sqrt(2 pi)
    const T square = T(-0.5) * x * x;
    const T density = [&] {
      if constexpr (std::is_same_v<T, float>) return simd_exp(square);
      return scalar_exp(square);
    }();
    return normal_cdf<T>(x) + x * T(kDensity) * density;
  }
};

struct Silu {
  template <class T>
  static T value(const T& x) {
    return x * sigmoid_pair<T>(x).value;
  }
  template <class T>
  static T slope(const T& x) {
    const SigmoidPair<T> s = sigmoid_pair<T>(x);
    return s.value + x * s.slope;
  }
};

// Calls f(GeluTanh{}), f(GeluErf{}) or f(Silu{}).
template <class F>
void dispatch_activation(Activation kind, const F& f) {
  switch (kind) {
    case Activation::gelu_tanh:
      return f(GeluTanh{});
    case Activation::gelu_erf:
      return f(GeluErf{});
    case Activation::silu:
      return f(Silu{});
  }
  fail("[activation] unknown kind ", static_cast<int>(kind));
}

template <class T>
void activation_forward_cpu(const ActivationForward<T>& a) {
  dispatch_activation(a.kind, [&](auto f) {
    using F = decltype(f);
#pragma omp parallel for if (a.rows * a.cols > 8192)
    for (int64_t r = 0; r < a.rows; ++r) {
      const T* x = a.x + r * a.x_stride;
      T* y = a.y + r * a.y_stride;
#pragma omp simd
      for (int64_t c = 0; c < a.cols; ++c) y[c] = F::template value<T>(x[c]);
    }
  });
}

template <class T>
void activation_backward_cpu(const ActivationBackward<T>& a) {
  dispatch_activation(a.kind, [&](auto f) {
    using F = decltype(f);
#pragma omp parallel for if (a.rows * a.cols > 8192)
    for (int64_t r = 0; r < a.rows; ++r) {
      const T* dy = a.dy + r * a.dy_stride;
      const T* x = a.x + r * a.x_stride;
      T* dx = a.dx + r * a.dx_stride;
      const bool accumulate = a.accumulate;
#pragma omp simd
      for (int64_t c = 0; c < a.cols; ++c) {
        const T value = dy[c] * F::template slope<T>(x[c]);
        dx[c] = accumulate ? dx[c] + value : value;
      }
    }
  });
}

template <class T>
void swiglu_forward_cpu(const SwigluForward<T>& a) {
#pragma omp parallel for if (a.rows * a.cols > 8192)
  for (int64_t r = 0; r < a.rows; ++r) {
    const T* gate = a.gate + r * a.gate_stride;
    const T* up = a.up + r * a.up_stride;
    T* y = a.y + r * a.y_stride;
#pragma omp simd
    for (int64_t c = 0; c < a.cols; ++c) y[c] = Silu::value<T>(gate[c]) * up[c];
  }
}

template <class T>
void swiglu_backward_cpu(const SwigluBackward<T>& a) {
#pragma omp parallel for if (a.rows * a.cols > 8192)
  for (int64_t r = 0; r < a.rows; ++r) {
    const T* dy = a.dy + r * a.dy_stride;
    const T* gate = a.gate + r * a.gate_stride;
    const T* up = a.up + r * a.up_stride;
    if (a.dgate != nullptr) {
      T* dgate = a.dgate + r * a.dgate_stride;
      const bool accumulate = a.accumulate_gate;
#pragma omp simd
      for (int64_t c = 0; c < a.cols; ++c) {
        const T value = dy[c] * up[c] * Silu::slope<T>(gate[c]);
        dgate[c] = accumulate ? dgate[c] + value : value;
      }
    }
    if (a.dup != nullptr) {
      T* dup = a.dup + r * a.dup_stride;
      const bool accumulate = a.accumulate_up;
#pragma omp simd
      for (int64_t c = 0; c < a.cols; ++c) {
        const T value = dy[c] * Silu::value<T>(gate[c]);
        dup[c] = accumulate ? dup[c] + value : value;
      }
    }
  }
}

}  // namespace matvlm
