// Stands in for gemm_cuda.cpp and gemm_rows.cu where the build has no CUDA.
#include "core/error.h"
#include "core/gemm_device.h"

namespace matvlm {

void gemm_cuda(Context&, const GemmArgs&) { fail("[gemm] this build has no CUDA"); }
bool try_gemm_cuda(Context&, const GemmArgs&) { return false; }
void scale_add_bias_cuda(Context&, int64_t, int64_t, float, const void*, void*, int64_t, DType) {
  fail("[gemm] this build has no CUDA");
}

}  // namespace matvlm
