// Counter-based random numbers straight into a tensor on its device: start values without a copy on the host.
#pragma once

#include "core/rng.h"
#include "core/tensor.h"

namespace matvlm {

// dst[i] = center + bound * u_i, rounded to dst's dtype (f32 or bf16); u_i is uniform in [-1, 1) and a function of
// `rng` and i alone. With bound 0 a constant. The same bits on CPU and GPU. dst is contiguous.
void fill_random(Context& ctx, const Tensor& dst, double center, double bound, const Rng& rng);

}  // namespace matvlm
