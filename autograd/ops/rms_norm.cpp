// Checks, dispatch and node of root-mean-square normalisation.
#include "autograd/ops/rms_norm.h"

#include "autograd/ops/reduce_device.h"
#include "autograd/ops/rms_norm_cpu.h"
#include "core/dispatch.h"

namespace matvlm {
namespace {

template <class T>
void forward(Context& ctx, const RmsNormForward<T, float>& args) {
  const auto on_cpu = [&] {
    if constexpr (std::is_same_v<T, float>) return rms_norm_forward_cpu(args);
    fail("[rms_norm] bf16 is for the GPU only");
  };
  dispatch_device(
      ctx, [&] { rms_norm_forward_cuda(ctx, args); }, on_cpu);
}

template <class T>
void backward(Context& ctx, const RmsNormBackward<T, float>& args) {
  const auto on_cpu = [&] {
    if constexpr (std::is_same_v<T, float>) return rms_norm_backward_cpu(args);
    fail("[rms_norm] bf16 is for the GPU only");
  };
  dispatch_device(
      ctx, [&] { rms_norm_backward_cuda(ctx, args); }, on_cpu);
}

struct Forward {
  Tensor y, inv_rms;
};

// Of the sum of `terms`, which is written to `sum`, or of the one term.
Forward compute(Context& ctx, const std::vector<Tensor>& terms, const Tensor& sum, const Weight& w, double eps) {
  const Tensor& x = terms[0];
  check_shape("rms_norm", "weight", w.value, {x.cols()});
  const Forward out = {Tensor::empty(ctx, x.shape(), x.dtype()), Tensor::empty(ctx, {x.rows()}, DType::f32)};
  dispatch_float("rms_norm", x.dtype(), [&](auto type) {
    using T = decltype(type);
    forward<T>(ctx, {.rows = x.rows(),
                     .cols = x.cols(),
                     .x = x.data<T>(),
                     .x_stride = x.row_stride(),
                     .w = w.value.data<T>(),
                     .eps = eps,
                     .y = out.y.data<T>(),
                     .y_stride = out.y.row_stride(),
                     .inv_rms = out.inv_rms.data<float>(),
                     .sum = norm_sum<T>(terms, sum)});
  });
  return out;
}

Var norm_node(Graph& g, const Var& x, const Weight& w, const Forward& made) {
  return g.node(made.y, {x}, {w}, [x, w, inv_rms = made.inv_rms](Graph& graph, const Tensor& dy) {
    Context& ctx = graph.ctx();
    Graph::GradSlot dx;
    if (x.requires_grad()) dx = graph.grad_slot(x);
    Tensor partial;
    if (dy.on_gpu() && w.trainable()) {
      partial = Tensor::empty(ctx, {reduce_chunks(dy.rows()), dy.cols()}, DType::f32);
    }
    dispatch_float("rms_norm", dy.dtype(), [&](auto type) {
      using T = decltype(type);
      backward<T>(ctx, {.rows = dy.rows(),
                        .cols = dy.cols(),
                        .dy = dy.data<T>(),
                        .dy_stride = dy.row_stride(),
                        .x = x.value().template data<T>(),
                        .x_stride = x.value().row_stride(),
                        .w = w.value.data<T>(),
                        .inv_rms = inv_rms.data<float>(),
                        .dx = dx.tensor.defined() ? dx.tensor.data<T>() : nullptr,
                        .dx_stride = dx.tensor.row_stride(),
                        .accumulate = dx.accumulate,
                        .dw = grad_to_add(ctx, w),
                        .partial = partial.defined() ? partial.data<float>() : nullptr});
    });
  });
}

}  // namespace

Var rms_norm(Graph& g, const Var& x, const Weight& w, double eps) {
  return norm_node(g, x, w, compute(g.ctx(), {x.value()}, {}, w, eps));
}

SumAndNorm add_rms_norm(Graph& g, const PendingSum& x, const Weight& w, double eps) {
  return sum_and_norm(
      g, x, [&](const std::vector<Tensor>& terms, const Tensor& sum) { return compute(g.ctx(), terms, sum, w, eps); },
      [&](const Var& sum, const Forward& made) { return norm_node(g, sum, w, made); });
}

}  // namespace matvlm
