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
  if (fused_gelu(ctx, x, m.w1.value, m.b1.value, inner, pre)) return inner;
  // Without a second buffer the activation goes where its argument was.
  const Tensor& argument = keep ? pre : inner;
  gemm_bias(ctx, x, m.w1.value, m.b1.value, argument);
  activation_into(ctx, Activation::gelu_tanh, argument, inner);
  return inner;
}

// The gradient at GELU's argument from the one at the MLP's output.
Tensor backward_inner(Context& ctx, const Tensor& dy, const Weight& w2, const Tensor& pre) {
  Tensor dpre = Tensor::empty(ctx, pre.shape(), pre.dtype());
  if (fused_gelu_gradient(ctx, dy, w2.value, pre, dpre)) return dpre;
  gemm(ctx, false, false, 1.0F, dy, w2.value, 0.0F, dpre);
  activation_gradient_into(ctx, Activation::gelu_tanh, dpre, pre, dpre, false);
  return dpre;
}

// inner: where w2 is trained; pre: where x or w1 need a gradient.
struct Kept {
  Tensor inner, pre;
};

void backward(Graph& g, const Var& x, const Tensor& input, const GeluMlp& mlp, const Kept& kept, const Tensor& dy) {
  Context& ctx = g.ctx();
  backward_weights(ctx, dy, kept.inner, mlp.w2, mlp.b2);
  if (!kept.pre.defined()) return;
  const Tensor dpre = backward_inner(ctx, dy, mlp.w2, kept.pre);
  backward_weights(ctx, dpre, input, mlp.w1, mlp.b1);
  if (!x.requires_grad()) return;
  const Graph::GradSlot dx = g.grad_slot(x);
  gemm(ctx, false, false, 1.0F, dpre, mlp.w1.value, dx.accumulate ? 1.0F : 0.0F, dx.tensor);
}

}  // namespace

Var gelu_mlp(Graph& g, const Var& x, const GeluMlp& mlp, const Var& residual, const Graph::Remake& input_again) {
  if (mlp.w1.fp8 != nullptr || mlp.w2.fp8 != nullptr) {
    // What follows such a product is no part of it.
    const Graph::Block inner = [mlp](Graph& graph, const std::vector<Var>& in) {
      return activation(graph, linear(graph, in[0], mlp.w1, mlp.b1), Activation::gelu_tanh);
    };
    return linear(g, input_again ? g.recompute({x}, inner, input_again) : inner(g, {x}), mlp.w2, mlp.b2, residual);
  }
  check_inputs(x.value(), mlp);
  Context& ctx = g.ctx();
  const bool inner_trained = mlp.w1.trainable() || mlp.b1.trainable();
  const bool keep = g.recording() && (x.requires_grad() || inner_trained);
  Tensor pre;
  const Tensor inner = forward_inner(ctx, x.value(), mlp, keep, pre);
  Tensor y = Tensor::empty(ctx, {x.value().dim(0), mlp.w2.value.dim(0)}, x.value().dtype());
  if (residual.value().defined()) check_shape(kOp, "residual", residual.value(), y.shape());
  linear_into(ctx, inner, mlp.w2, mlp.b2, residual.value(), y);

  // With input_again the same product makes `pre` again, with the same bits, so nothing of it is kept.
  if (keep && input_again) pre = Tensor();
  const Var kept = mlp.w1.trainable() && !input_again ? x : x.route();
  const Tensor kept_inner = mlp.w2.trainable() && !(keep && input_again) ? inner : Tensor();
  const Var added = residual.route();
  return g.node(
      y, {x, residual}, {mlp.w1, mlp.b1, mlp.w2, mlp.b2},
      [x = kept, keep, kept_values = Kept{kept_inner, pre}, mlp, added, input_again](Graph& graph, const Tensor& dy) {
        Kept values = kept_values;
        Tensor input = x.value();
        if (keep && input_again) {
          input = input_again(graph.ctx())[0];
          values.inner = forward_inner(graph.ctx(), input, mlp, true, values.pre);
          if (!mlp.w2.trainable()) values.inner = Tensor();
        }
        backward(graph, x, input, mlp, values, dy);
        if (added.requires_grad()) graph.add_grad(added, dy);
      });
}

}  // namespace matvlm
