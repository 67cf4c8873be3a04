// The parameter update: clip by the global norm, AdamW.
#pragma once

#include "autograd/parameter.h"
#include "core/context.h"
#include "distill/config.h"

namespace matvlm {

// Factor min(1, clip / (norm + 1e-6)); 1 when clip is 0.
double clip_factor(double clip, double norm);

// Update number `number` (1 is the first) with learning rate `lr`, from gradients of norm `norm`.
void apply_update(Context& ctx, const ParameterStore& store, const OptimizerConfig& config, double lr, int64_t number,
                  double norm);

}  // namespace matvlm
