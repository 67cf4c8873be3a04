// Rows of a tile of head_loss: copied together, and back.
#pragma once

#include "core/tensor.h"

namespace matvlm {

// dst[i] = src[index[i]] and dst[index[i]] = src[i]; index i64 [n], no row twice. The compact side is contiguous.
void gather_rows(Context& ctx, const Tensor& src, const Tensor& index, const Tensor& dst);
void scatter_rows(Context& ctx, const Tensor& src, const Tensor& index, const Tensor& dst);

// Whether both start at the same place of a 256-byte line, so that products choose the same algorithm for both.
bool same_place_in_lines(const Tensor& a, const Tensor& b);

}  // namespace matvlm
