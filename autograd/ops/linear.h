// Linear layers: y = x W^T + bias.
#pragma once

#include <memory>
#include <vector>

#include "autograd/graph.h"

namespace matvlm {

// x [..., K], w [N, K], bias [N] or undefined -> [..., N], contiguous, in x's dtype (w and bias have it too). Backward
// computes the gradient of x only if x needs one, and adds the gradients of w and bias in float32 only if they are
// trained. x may be a column view. residual, where defined, has the result's shape and is added to it, by the product
// itself where the device can; a route (Var::route()) as residual is not added, but handed the result's gradient on:
// for sums formed later, of values that are used nowhere else. A weight held in fp8 multiplies x rounded to fp8 row by
// row (products and sums of gemm_fp8, the result in x's dtype); its gradient of x is that of the same product with dy
// rounded likewise. input_again: makes x's value again where the gradient of a trained w needs it, so that it is not
// kept.
Var linear(Graph& g, const Var& x, const Weight& w, const Weight& bias, const Var& residual = {},
           const Graph::Remake& input_again = {});

// The parts of linear(), for ops that contain a linear layer: y = x w^T + bias (+ residual, where defined), and the
// gradients of what is trained of w and bias. w not in fp8.
void linear_into(Context& ctx, const Tensor& x, const Weight& w, const Weight& bias, const Tensor& residual,
                 const Tensor& y);
void backward_weights(Context& ctx, const Tensor& dy, const Tensor& x, const Weight& w, const Weight& bias);

// Linear layers of one input side by side: q, k and v of attention, gate and up of SwiGLU.
struct JoinedLinear {
  struct Part {
    Weight w, bias;  // [N_i, K], [N_i] or undefined
  };
  std::vector<Part> parts;
  // The same memory as one matrix [sum of N_i, K] and one bias, where the parts lie one behind the other. w undefined:
  // the parts are computed by a product each; bias undefined beside a w: the parts' biases, if any, are gathered.
  Tensor w, bias;
  std::shared_ptr<const Fp8Weight> fp8 = nullptr;  // in place of w, where all parts are in fp8

  int64_t width() const;  // sum of N_i
  bool is_one() const { return w.defined() || fp8 != nullptr; }
};

// x [..., K] -> [..., sum of N_i], contiguous: the outputs of the parts as column ranges in their order. Either all
// parts have a bias or none. Otherwise as linear().
Var linear_joined(Graph& g, const Var& x, const JoinedLinear& layer);

}  // namespace matvlm
