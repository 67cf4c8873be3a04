// Stands in for gemm_fp8_cuda.cpp and gemm_fp8_rows.cu where the build has no CUDA.
#include "core/error.h"
#include "core/gemm_fp8_device.h"

namespace matvlm {

void gemm_fp8_cuda(Context&, const Fp8GemmArgs&) { fail("[gemm_fp8] this build has no CUDA"); }
std::string fp8_obstacle_cuda(Context&) { return "a build without CUDA"; }
void scale_fp8_product_cuda(Context&, const Fp8GemmArgs&, const float*) { fail("[gemm_fp8] this build has no CUDA"); }

}  // namespace matvlm
