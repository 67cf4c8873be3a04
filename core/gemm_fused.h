// Matrix products that do the elementwise work behind them as well, through the epilogues of cuBLASLt. All of them
// return false, having done nothing, where that is not possible (on a CPU; other alignments than 16 bytes; no algorithm
// of the library; GELU of float32, since the library does not say how exact its tanh is): the caller then takes the
// steps one by one.
//   T rows, K inputs, N outputs
#pragma once

#include "core/tensor.h"

namespace matvlm {

// y = x W^T + bias + residual. x [T, K], w [N, K], bias [N] or undefined, residual [T, N] at y's row stride (may be y).
bool fused_residual(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& residual,
                    const Tensor& y);

// y = gelu_tanh(x W^T + bias); `pre` [T, N] or undefined: gets x W^T + bias.
bool fused_gelu(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y, const Tensor& pre);

// dx = (dy W) gelu_tanh'(pre). dy [T, N], w [N, K], pre [T, K] -> dx [T, K].
bool fused_gelu_gradient(Context& ctx, const Tensor& dy, const Tensor& w, const Tensor& pre, const Tensor& dx);

}  // namespace matvlm
