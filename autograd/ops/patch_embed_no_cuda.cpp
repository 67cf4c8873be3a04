// Stands in for patch_embed.cu where the build has no CUDA.
#include "autograd/ops/patch_embed_device.h"
#include "core/error.h"

namespace matvlm {
namespace {

[[noreturn]] void no_cuda() { fail("[patch_embed] this build has no CUDA"); }

}  // namespace

void patches_as_rows_cuda(Context&, const PatchGeometry&, DType, const void*, int64_t, void*) { no_cuda(); }
void add_positions_cuda(Context&, const PatchGeometry&, DType, const void*, const void*, void*) { no_cuda(); }
void add_position_grad_cuda(Context&, const PatchGeometry&, DType, const void*, int64_t, float*) { no_cuda(); }

}  // namespace matvlm
