// Products of fp8 matrices, rows times rows: C[m,n] = A[m,k] B[n,k]^T. Both operands have the depth k in their rows,
// the one layout that the tensor cores of compute capability 8.9 and 9.0 take. CPU: the operands as floats through
// OpenBLAS (gemm_fp8.cpp). CUDA: cuBLASLt (gemm_fp8_cuda.cpp).
#pragma once

#include <string>

#include "core/fp8.h"

namespace matvlm {

// How the GPU sums over the depth. fast: in the tensor cores' own accumulator, which keeps some 14 bits below the
// largest summand; promoted: parts of the depth, added in float32. The CPU sums in float32 either way.
enum class Fp8Sums { fast, promoted };

// C = A B^T + beta * C, or + bias (a row of length n of C's type, undefined for none; only with beta = 0). C f32, or
// bf16 on the GPU; row-strided. k and n must be multiples of 16 (kFp8Multiple), m is free; that holds on the CPU too,
// so that what runs there runs on a GPU. With beta = 0, C is not read. Same inputs, same bits.
void gemm_fp8(Context& ctx, const Fp8Matrix& a, const Fp8Matrix& b, const Tensor& bias, float beta, const Tensor& c,
              Fp8Sums sums);
inline constexpr int64_t kFp8Multiple = 16;

// Empty where the device multiplies fp8 matrices; else what was found and expected, for messages. The CPU does.
std::string fp8_obstacle(Context& ctx);

}  // namespace matvlm
