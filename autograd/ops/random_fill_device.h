// GPU launcher of random_fill.h (random_fill.cu); random_fill_no_cuda.cpp throws.
#pragma once

#include <cstdint>

#include "core/context.h"
#include "core/dtype.h"
#include "core/rng.h"

namespace matvlm {

// n contiguous elements, n > 0.
void fill_random_cuda(Context& ctx, int64_t n, double center, double bound, const Rng& rng, void* dst, DType dtype);

}  // namespace matvlm
