// The GPU half of gemm_fp8.h: checked arguments in, cuBLASLt out (gemm_fp8_cuda.cpp, gemm_fp8_rows.cu);
// gemm_fp8_no_cuda.cpp throws.
#pragma once

#include <cstdint>
#include <string>

#include "core/context.h"
#include "core/dtype.h"
#include "core/gemm_fp8.h"

namespace matvlm {

// Row-major C[m,n] = scale_a[m] scale_b[n] A[m,k] B[n,k]^T + beta * C (+ bias[n]). A and B e4m3, contiguous; C and bias
// of type `output`. m, n, k > 0.
struct Fp8GemmArgs {
  int64_t m = 0, n = 0, k = 0;
  const void* a = nullptr;
  const float* scale_a = nullptr;
  const void* b = nullptr;
  const float* scale_b = nullptr;
  float beta = 0;
  void* c = nullptr;
  int64_t ldc = 0;
  const void* bias = nullptr;  // only with beta = 0
  DType output = DType::f32;
  Fp8Sums sums = Fp8Sums::promoted;
};

void gemm_fp8_cuda(Context& ctx, const Fp8GemmArgs& args);
std::string fp8_obstacle_cuda(Context& ctx);

// C = scale_a[m] scale_b[n] product + beta * C (+ bias), product f32 [m, n] contiguous: for GPUs whose cuBLASLt does
// not scale rows and columns itself.
void scale_fp8_product_cuda(Context& ctx, const Fp8GemmArgs& args, const float* product);

}  // namespace matvlm
