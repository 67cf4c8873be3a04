// Logits of a checkpoint on one row of ids, as tests compare them with other programs'.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/context.h"

namespace matvlm::testing {

// `dir`: a model in any layout. `image`: [3, S, S], normalised, for the one image mark in the row; empty for a row
// without one. [positions, vocabulary] in float32.
std::vector<float> vlm_logits(Context& ctx, const std::string& dir, const std::vector<int32_t>& ids,
                              const std::vector<float>& image);

// Largest absolute difference; infinity for vectors of different lengths.
double largest_difference(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace matvlm::testing
