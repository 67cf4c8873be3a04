// Two linear layers with tanh-GELU between them: y = gelu_tanh(x W1^T + b1) W2^T + b2 (+ residual).
//   T rows, D width, I inner width
#pragma once

#include "autograd/graph.h"

namespace matvlm {

struct GeluMlp {
  Weight w1, b1;  // [I, D], [I] or undefined
  Weight w2, b2;  // [D', I], [D'] or undefined
};

// x [T, D] -> [T, D']; residual, where defined, [T, D'] is added (or handed the gradient on: see linear()). On a GPU
// bias and GELU, the residual and, in backward, the factor of GELU's derivative are part of the products where
// cuBLASLt can do that (core/gemm_fused.h). What is kept for backward is the pre-activation [T, I], and what trained
// weights need: x for w1, GELU's result for w2. With input_again, which makes x's value again, nothing is kept:
// backward makes all of it once more.
Var gelu_mlp(Graph& g, const Var& x, const GeluMlp& mlp, const Var& residual = {},
             const Graph::Remake& input_again = {});

}  // namespace matvlm
