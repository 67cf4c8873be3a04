// The GPU half of patch_embed.h, around its matrix products (patch_embed.cu); patch_embed_no_cuda.cpp throws.
#pragma once

#include <cstdint>

#include "core/context.h"
#include "core/dtype.h"

namespace matvlm {

// n images of S x S, patches of p x p, g x g of them, width D.
struct PatchGeometry {
  int64_t images = 0, side = 0, patch = 0, width = 0;
  int64_t grid() const { return side / patch; }
  int64_t patches() const { return grid() * grid(); }
  int64_t depth() const { return 3 * patch * patch; }
};

// columns [n * P, stride] of pixels [n, 3, S, S]: patches as rows in the order of w's [3, p, p], zeros behind them. All
// of `dtype`.
void patches_as_rows_cuda(Context& ctx, const PatchGeometry& geometry, DType dtype, const void* pixels, int64_t stride,
                          void* columns);

// y [n * P, D] += bias [D] + position [P, D]. All of `dtype`.
void add_positions_cuda(Context& ctx, const PatchGeometry& geometry, DType dtype, const void* bias,
                        const void* position, void* y);

// dposition f32 [P, D] += sum over the images of dy, in order.
void add_position_grad_cuda(Context& ctx, const PatchGeometry& geometry, DType dtype, const void* dy, int64_t dy_stride,
                            float* dposition);

}  // namespace matvlm
