// The arithmetic of one AdamW element, for the CPU and the GPU; see adamw.h.
#pragma once

#include <cmath>

#include "autograd/ops/adamw.h"
#include "core/dtype.h"

namespace matvlm {

// The step's constants in the type of the arithmetic.
template <class T>
struct AdamWFactors {
  T beta1, one_minus_beta1, beta2, one_minus_beta2;
  T decay;          // lr * weight_decay, for parameters with decay
  T step_size;      // lr / bias_correction1
  T inv_sqrt_bias;  // 1 / sqrt(bias_correction2)
  T eps, grad_scale;
};

template <class T>
AdamWFactors<T> adamw_factors(const AdamWStep& s) {
  return {static_cast<T>(s.beta1),
          static_cast<T>(1 - s.beta1),
          static_cast<T>(s.beta2),
          static_cast<T>(1 - s.beta2),
          static_cast<T>(s.lr * s.weight_decay),
          static_cast<T>(s.lr / s.bias_correction1),
          static_cast<T>(1 / std::sqrt(s.bias_correction2)),
          static_cast<T>(s.eps),
          static_cast<T>(s.grad_scale)};
}

// One element; returns the new parameter.
template <class T>
MATVLM_HOST_DEVICE T adamw_element(const AdamWFactors<T>& f, bool decay, T p, T g, T& m, T& v) {
  g *= f.grad_scale;
  m = f.beta1 * m + f.one_minus_beta1 * g;
  v = f.beta2 * v + f.one_minus_beta2 * g * g;
  // Decay and step are small against p: they are added up first, so that p is rounded once.
  const T update = f.step_size * m / (std::sqrt(v) * f.inv_sqrt_bias + f.eps);
  return p - ((decay ? f.decay * p : T(0)) + update);
}

}  // namespace matvlm
