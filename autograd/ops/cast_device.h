// GPU launcher of cast.h (cast.cu); cast_no_cuda.cpp throws.
#pragma once

#include <cstdint>

#include "core/context.h"
#include "core/dtype.h"

namespace matvlm {

// n contiguous elements.
void cast_cuda(Context& ctx, int64_t n, const void* src, DType src_dtype, void* dst, DType dst_dtype);

}  // namespace matvlm
