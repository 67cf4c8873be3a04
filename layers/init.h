// Start values: attention-to-Mamba initialisation (the method's §2) and random initialisation of whole models. Every
// value is a function of (seed, tensor name, index), so it does not depend on order, rank or device.
#pragma once

#include <string>
#include <vector>

#include "layers/tensors.h"
#include "layers/weights.h"

namespace matvlm {

// Values of one tensor of the mixer of `layer`. `attention` supplies the teacher's attention tensors; null: everything
// at random. in_proj rows are z | x | B | C | dt; x <- W_v, B <- W_k, C <- W_q, out_proj <- W_dense.
std::vector<float> init_mamba_tensor(const ModelConfig& config, int64_t layer, const ModelTensor& tensor,
                                     const ValueSource* attention, uint64_t seed);

// Values of any tensor of a transformer at random: normal with deviation 1/sqrt(fan in), projections that end a
// residual branch divided by sqrt(2 * layers), norms 1, biases 0.
std::vector<float> init_random_tensor(const ModelConfig& config, const ModelTensor& tensor, uint64_t seed);

// All tensors of a transformer, frozen, made on the device: as init_random_tensor but uniform, with the same
// deviations. For measurements of models whose weights are not there.
ModelWeights random_frozen_weights(Context& ctx, const ModelConfig& config, DType dtype, uint64_t seed);

}  // namespace matvlm
