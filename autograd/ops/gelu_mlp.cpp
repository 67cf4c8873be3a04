// The GELU MLP as one node, so that elementwise work can join the products on both of its sides.
#include "autograd/ops/gelu_mlp.h"

#include "autograd/ops/activation.h"
#include "autograd/ops/linear.h"
#include "autograd/ops/op_checks.h"
#include "core/gemm.h"
#include "core/gemm_fused.h"

namespace matvlm {
namespace {

constexpr const char* kOp = "gelu_mlp";
// false: bias and GELU, or the factor of its derivative, are not part of the products.
constexpr bool kFuseGelu = true;
constexpr bool kFuseGeluGradient = true;

void check_inputs(const Tensor& x, const GeluMlp& m) {
  check(x.rank() == 2, "[", kOp, "] x: found ", shape_string(x.shape()), ", expected [T, D]");
  const Tensor& w1 = m.w1.value;
  check(w1.rank() == 2 && w1.cols() == x.cols(), "[", kOp, "] w1: found ", shape_string(w1.shape()), ", expected [I, ",
        x.cols(), "]");
  check_dtype(kOp, "w1", w1, x.dtype());
}

// GELU's result; `pre` gets its argument, which is scratch where backward does not need it.
Tensor forward_inner(Context& ctx, const Tensor& x, const GeluMlp& m, bool keep, Tensor& pre) {
  const Shape shape = {x.dim(0), m.w1.value.dim(0)};
  Tensor inner = Tensor::empty(ctx, shape, x.dtype());
  if (keep) pre = Tensor::empty(ctx, shape, x.dtype());
  if (kFuseGelu && fused_gelu(ctx, x, m.w1.value, m.b1.value, inner, pre)) return inner;
  // Without a second buffer the activation goes where its argument was.
  const Tensor& argument = keep ? pre : inner;
  gemm_bias(ctx, x, m.w1.value, m.b1.value, argument);
  activation_into(ctx, Activation::gelu_tanh, argument, inner);
  return inner;
}

// The gradient at GELU's argument from the one at the MLP's output.
Tensor backward_inner(Context& ctx, const Tensor& dy, const Weight& w2, const Tensor& pre) {
  Tensor dpre = Tensor::empty(ctx, pre.shape(), pre.dtype());
  if (kFuseGeluGradient && fused_gelu_gradient(ctx, dy, w2.value, pre, dpre)) return dpre;
  gemm(ctx, false, false, 1.0F, dy, w2.value, 0.0F, dpre);
  activation_gradient_into(ctx, Activation::gelu_tanh, dpre, pre, dpre, false);
  return dpre;
}

}  // namespace

Var gelu_mlp(Graph& g, const Var& x, const GeluMlp& mlp, const Var& residual) {
  if (mlp.w1.fp8 != nullptr || mlp.w2.fp8 != nullptr) {
    // What follows such a product is no part of it.
    const Var inner = activation(g, linear(g, x, mlp.w1, mlp.b1), Activation::gelu_tanh);
    return linear(g, inner, mlp.w2, mlp.b2, residual);
  }
  check_inputs(x.value(), mlp);
  Context& ctx = g.ctx();
  const bool inner_trained = mlp.w1.trainable() || mlp.b1.trainable();
  const bool keep = g.recording() && (x.requires_grad() || inner_trained);
  Tensor pre;
  const Tensor inner = forward_inner(ctx, x.value(), mlp, keep, pre);
  Tensor y = Tensor::empty(ctx, {x.value().dim(0), mlp.w2.value.dim(0)}, x.value().dtype());
  if (residual.defined()) check_shape(kOp, "residual", residual.value(), y.shape());
  linear_into(ctx, inner, mlp.w2, mlp.b2, residual.value(), y);

  const Var kept = mlp.w1.trainable() ? x : x.route();
  const Tensor kept_inner = mlp.w2.trainable() ? inner : Tensor();
  const Var added = residual.route();
  return g.node(y, {x, residual}, {mlp.w1, mlp.b1, mlp.w2, mlp.b2},
                [x = kept, inner = kept_inner, pre, mlp, added](Graph& graph, const Tensor& dy) {
                  backward_weights(graph.ctx(), dy, inner, mlp.w2, mlp.b2);
                  if (pre.defined()) {
                    const Tensor dpre = backward_inner(graph.ctx(), dy, mlp.w2, pre);
                    backward_weights(graph.ctx(), dpre, x.value(), mlp.w1, mlp.b1);
                    if (x.requires_grad()) {
                      const Graph::GradSlot dx = graph.grad_slot(x);
                      gemm(graph.ctx(), false, false, 1.0F, dpre, mlp.w1.value, dx.accumulate ? 1.0F : 0.0F, dx.tensor);
                    }
                  }
                  if (added.requires_grad()) graph.add_grad(added, dy);
                });
}

}  // namespace matvlm
