// Stands in for patch_embed_cuda.cpp and patch_embed.cu where the build has no CUDA.
#include "autograd/ops/patch_embed_device.h"
#include "core/error.h"

namespace matvlm {
namespace {

[[noreturn]] void no_cuda() { fail("[patch_embed] this build has no CUDA"); }

}  // namespace

void patch_convolution_cuda(Context&, const PatchGeometry&, DType, const void*, const void*, void*) { no_cuda(); }
void patch_filter_grad_cuda(Context&, const PatchGeometry&, const float*, const float*, float*) { no_cuda(); }
void planes_to_rows_cuda(Context&, const PatchGeometry&, DType, const void*, const void*, const void*, void*) {
  no_cuda();
}
void rows_to_planes_cuda(Context&, const PatchGeometry&, DType, const void*, int64_t, float*) { no_cuda(); }
void add_position_grad_cuda(Context&, const PatchGeometry&, DType, const void*, int64_t, float*) { no_cuda(); }

}  // namespace matvlm
