// The gradient at GELU's argument, in one product for sm_90a: what cuBLASLt has for this epilogue is a kernel of the
// generation before. cuBLASLt's own is in core/gemm_fused.h, the steps one by one in activation.h.
#pragma once

#include "core/context.h"
#include "core/tensor.h"

namespace matvlm {

// dx = (dy W) gelu_tanh'(pre), bf16, sums in float32, the same bits every time. dy [T, K], w [K, N], pre [T, N] ->
// dx [T, N]. False, and nothing done, where the device is none of compute capability 9.0, an address is not aligned to
// 16 bytes or a width or row stride is no multiple of 8.
bool gelu_gradient_product(Context& ctx, const Tensor& dy, const Tensor& w, const Tensor& pre, const Tensor& dx);

// Whether that kernel is the one to take for dx of that shape: its tiles are large, so they have to be many.
bool gelu_gradient_fits(Context& ctx, const Tensor& dx);

}  // namespace matvlm
