#include "distill/update.h"

#include <algorithm>
#include <cmath>

#include "autograd/ops/adamw.h"

namespace matvlm {

double clip_factor(double clip, double norm) { return clip > 0 ? std::min(1.0, clip / (norm + 1e-6)) : 1.0; }

void apply_update(Context& ctx, const ParameterStore& store, const OptimizerConfig& config, double lr, int64_t number,
                  double norm) {
  AdamWStep step;
  step.lr = lr;
  step.beta1 = config.beta1;
  step.beta2 = config.beta2;
  step.eps = config.eps;
  step.weight_decay = config.weight_decay;
  step.bias_correction1 = 1.0 - std::pow(config.beta1, static_cast<double>(number));
  step.bias_correction2 = 1.0 - std::pow(config.beta2, static_cast<double>(number));
  step.grad_scale = clip_factor(config.clip, norm);
  adamw(ctx, store, step);
}

}  // namespace matvlm
