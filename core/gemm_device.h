// The GPU half of gemm.h: checked arguments in, cuBLASLt out (gemm_cuda.cpp, gemm_rows.cu); gemm_no_cuda.cpp throws.
#pragma once

#include <cstdint>

#include "core/context.h"
#include "core/dtype.h"

namespace matvlm {

// What follows the product and the bias, before C is written: tanh-GELU, or the factor of its derivative at `pre`.
enum class GemmEpilogue { none, gelu, gelu_gradient };

// Row-major C[m,n] = alpha * op(A)[m,k] * op(B)[k,n] + beta * C (+ bias[n]). A and B of type `input`, C and bias of
// type `output`. m, n > 0.
struct GemmArgs {
  bool transpose_a = false, transpose_b = false;
  int64_t m = 0, n = 0, k = 0;
  float alpha = 1, beta = 0;
  const void* a = nullptr;
  int64_t lda = 0;
  const void* b = nullptr;
  int64_t ldb = 0;
  void* c = nullptr;
  int64_t ldc = 0;
  const void* bias = nullptr;      // only with beta = 0 or a residual
  const void* residual = nullptr;  // with beta: what is added in place of the old C, at ldc
  GemmEpilogue epilogue = GemmEpilogue::none;
  void* pre = nullptr;  // of gelu: gets what GELU is taken of, or nullptr; of its gradient: that again
  int64_t ldpre = 0;
  DType input = DType::f32, output = DType::f32;
  bool pinned = false;  // see PinnedProducts
};

// Whether a PinnedProducts (gemm.h) lives.
bool products_pinned();

void gemm_cuda(Context& ctx, const GemmArgs& args);
// The same with residual and epilogue; false where cuBLASLt has no algorithm for them.
bool try_gemm_cuda(Context& ctx, const GemmArgs& args);

// C[m,n] = beta * C + bias; bias of C's type or nullptr. What is left of a product without inner dimension, and the
// bias where cuBLASLt has no kernel that adds it. beta = 0 does not read C.
void scale_add_bias_cuda(Context& ctx, int64_t m, int64_t n, float beta, const void* bias, void* c, int64_t ldc,
                         DType dtype);

}  // namespace matvlm
