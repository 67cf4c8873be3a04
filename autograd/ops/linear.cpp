// The linear layer: three matrix products; the arithmetic is in core/gemm.
#include "autograd/ops/linear.h"

#include "autograd/ops/reduce.h"
#include "core/gemm.h"

namespace matvlm {
namespace {

// The parameter's f32 gradient as a matrix or vector of the weight's shape.
void backward_weights(Context& ctx, const Tensor& dy, const Tensor& x, const Weight& w, const Weight& bias) {
  if (w.trainable()) gemm(ctx, true, false, 1.0F, dy, x, take_grad_factor(*w.param), w.param->grad);
  if (grad_to_add(ctx, bias) != nullptr) add_column_sums(ctx, dy, bias.param->grad);
}

}  // namespace

Var linear(Graph& g, const Var& x, const Weight& w, const Weight& bias) {
  const Tensor& value = x.value();
  check(w.value.rank() == 2 && w.value.cols() == value.cols(), "[linear] weight: found ", shape_string(w.value.shape()),
        ", expected [N, ", value.cols(), "]");
  check_dtype("linear", "weight", w.value, value.dtype());
  Shape shape = value.shape();
  shape.back() = w.value.dim(0);
  Tensor y = Tensor::empty(g.ctx(), std::move(shape), value.dtype());
  gemm_bias(g.ctx(), value, w.value, bias.value, y);
  // A frozen weight's input is not needed again: most of what a student's frozen layers would keep.
  const Var kept = w.trainable() ? x : x.route();
  return g.node(y, {x}, {w, bias}, [x = kept, w, bias](Graph& graph, const Tensor& dy) {
    Context& ctx = graph.ctx();
    backward_weights(ctx, dy, x.value(), w, bias);
    if (!x.requires_grad()) return;
    const Graph::GradSlot dx = graph.grad_slot(x);
    gemm(ctx, false, false, 1.0F, dy, w.value, dx.accumulate ? 1.0F : 0.0F, dx.tensor);
  });
}

}  // namespace matvlm
