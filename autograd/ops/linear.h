// Linear layer: y = x W^T + bias.
#pragma once

#include "autograd/graph.h"

namespace matvlm {

// x [..., K], w [N, K], bias [N] or undefined -> [..., N], contiguous, in x's dtype (w and bias have it too). Backward
// computes the gradient of x only if x needs one, and adds the gradients of w and bias in float32 only if they are
// trained. x may be a column view.
Var linear(Graph& g, const Var& x, const Weight& w, const Weight& bias);

}  // namespace matvlm
