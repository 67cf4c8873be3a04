// The GPU half of patch_embed.h: the convolution by cuDNN (patch_embed_cuda.cpp) and the kernels around it
// (patch_embed.cu); patch_embed_no_cuda.cpp throws.
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
};

// planes [n, D, g, g] = convolution of pixels [n, 3, S, S] with w [D, 3, p, p], stride p. All of `dtype`.
void patch_convolution_cuda(Context& ctx, const PatchGeometry& geometry, DType dtype, const void* pixels, const void* w,
                            void* planes);

// dw [D, 3, p, p] += the filter gradient. All f32.
void patch_filter_grad_cuda(Context& ctx, const PatchGeometry& geometry, const float* pixels, const float* dplanes,
                            float* dw);

// y [n * P, D] = planes [n, D, P] transposed + bias [D] + position [P, D]. All of `dtype`.
void planes_to_rows_cuda(Context& ctx, const PatchGeometry& geometry, DType dtype, const void* planes, const void* bias,
                         const void* position, void* y);

// dplanes f32 [n, D, P] = dy [n * P, D] of `dtype`, transposed.
void rows_to_planes_cuda(Context& ctx, const PatchGeometry& geometry, DType dtype, const void* dy, int64_t dy_stride,
                         float* dplanes);

// dposition f32 [P, D] += sum over the images of dy, in order.
void add_position_grad_cuda(Context& ctx, const PatchGeometry& geometry, DType dtype, const void* dy, int64_t dy_stride,
                            float* dposition);

}  // namespace matvlm
