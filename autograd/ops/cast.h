// Conversion between f32 and bf16.
#pragma once

#include "core/tensor.h"

namespace matvlm {

// dst = src rounded to dst's dtype; same shape, contiguous.
void cast_into(Context& ctx, const Tensor& src, const Tensor& dst);

}  // namespace matvlm
