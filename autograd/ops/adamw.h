// AdamW (Loshchilov and Hutter 2019) as PyTorch defines it, over the parameter arenas.
#pragma once

#include <cstdint>

#include "autograd/parameter.h"

namespace matvlm {

struct AdamWStep {
  double lr = 0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0;      // applied to parameters with `decay`
  double bias_correction1 = 1;  // 1 - beta1^t
  double bias_correction2 = 1;  // 1 - beta2^t
  double grad_scale = 1;        // the clip factor; gradients are multiplied by it first
};

// One update of every parameter from its gradient:
//   p *= 1 - lr * weight_decay;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   p -= lr / bias_correction1 * m / (sqrt(v / bias_correction2) + eps)
// and what compute reads, rounded from it. Gradients are left as they are. Error when grad_scale or lr is not finite.
void adamw(Context& ctx, const ParameterStore& parameters, const AdamWStep& step);

// Euclidean norm of all gradients together, in double. NaN or infinite if a gradient is. Synchronises.
double grad_norm(Context& ctx, const ParameterStore& parameters);
// Its square on the device, f64 [1], without waiting for it.
Tensor grad_squares(Context& ctx, const ParameterStore& parameters);

}  // namespace matvlm
