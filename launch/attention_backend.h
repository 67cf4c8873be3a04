// Key `attention.backend`: whose kernels attention runs on.
#pragma once

#include <memory>

#include "autograd/ops/attention_dnn.h"
#include "launch/config.h"

namespace matvlm {

// Error when the config wants a back end that this build does not have.
void check_attention_backend(const RunConfig& config);

// cuDNN's plans for the device of a run; null for the native kernels. Error where the device cannot do it.
std::shared_ptr<DnnAttention> make_attention_backend(Context& ctx, const RunConfig& config);

}  // namespace matvlm
