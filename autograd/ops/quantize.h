// Conversion of matrices to fp8 with a scale per row (fp8.h): the operands of gemm_fp8.
//   R rows, C columns
#pragma once

#include <cstdint>

#include "autograd/graph.h"
#include "core/fp8.h"
#include "core/tensor.h"

namespace matvlm {

// Rows of x (leading dimensions flattened; may be a column view) in fp8, each by its own largest magnitude. `factor`
// f32 [C], powers of two, multiplies the columns first where it is defined. Activations, weights and gradients alike
// are e4m3: with a scale per row its range, 2^17 down to the smallest subnormal, loses only elements that add nothing
// beside the row's largest, so e5m2 would but cost a bit of each gradient.
Fp8Matrix quantize_rows(Context& ctx, const Tensor& x, const Tensor& factor = {});

// quantize_rows of x's value, once for all products that share x.
const Fp8Matrix& quantized(Context& ctx, const Var& x);

// u8 [R, C] -> [C, R], both contiguous, R and C multiples of 4.
Tensor transpose_bytes(Context& ctx, const Tensor& x);

template <class T>
struct QuantizeArgs {
  int64_t rows = 0, cols = 0;
  const T* x = nullptr;  // [R, C]
  int64_t x_stride = 0;
  const float* factor = nullptr;  // [C] or nullptr
  uint8_t* values = nullptr;      // [R, C]
  float* scale = nullptr;         // [R]
};

// quantize.cu, for float and bf16; quantize_no_cuda.cpp throws.
template <class T>
void quantize_cuda(Context& ctx, const QuantizeArgs<T>& args);
void transpose_bytes_cuda(Context& ctx, int64_t rows, int64_t cols, const uint8_t* x, uint8_t* y);

}  // namespace matvlm
