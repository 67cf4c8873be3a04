// Checks, dispatch and node of layer normalisation.
#include "autograd/ops/layer_norm.h"

#include "autograd/ops/layer_norm_cpu.h"
#include "autograd/ops/reduce_device.h"
#include "core/dispatch.h"

namespace matvlm {
namespace {

template <class T>
void forward(Context& ctx, const LayerNormForward<T, float>& args) {
  const auto on_cpu = [&] {
    if constexpr (std::is_same_v<T, float>) return layer_norm_forward_cpu(args);
    fail("[layer_norm] bf16 is for the GPU only");
  };
  dispatch_device(
      ctx, [&] { layer_norm_forward_cuda(ctx, args); }, on_cpu);
}

template <class T>
void backward(Context& ctx, const LayerNormBackward<T, float>& args) {
  const auto on_cpu = [&] {
    if constexpr (std::is_same_v<T, float>) return layer_norm_backward_cpu(args);
    fail("[layer_norm] bf16 is for the GPU only");
  };
  dispatch_device(
      ctx, [&] { layer_norm_backward_cuda(ctx, args); }, on_cpu);
}

}  // namespace

Var layer_norm(Graph& g, const Var& x, const Weight& w, const Weight& b, double eps) {
  const Tensor& value = x.value();
  check_shape("layer_norm", "weight", w.value, {value.cols()});
  check_shape("layer_norm", "bias", b.value, {value.cols()});
  Tensor y = Tensor::empty(g.ctx(), value.shape(), value.dtype());
  Tensor mean = Tensor::empty(g.ctx(), {value.rows()}, DType::f32);
  Tensor inv_std = Tensor::empty(g.ctx(), {value.rows()}, DType::f32);
  dispatch_float("layer_norm", value.dtype(), [&](auto type) {
    using T = decltype(type);
    forward<T>(g.ctx(), {.rows = value.rows(),
                         .cols = value.cols(),
                         .x = value.data<T>(),
                         .x_stride = value.row_stride(),
                         .w = w.value.data<T>(),
                         .b = b.value.data<T>(),
                         .eps = eps,
                         .y = y.data<T>(),
                         .y_stride = y.row_stride(),
                         .mean = mean.data<float>(),
                         .inv_std = inv_std.data<float>()});
  });
  return g.node(y, {x}, {w, b}, [x, w, b, mean, inv_std](Graph& graph, const Tensor& dy) {
    Context& ctx = graph.ctx();
    Graph::GradSlot dx;
    if (x.requires_grad()) dx = graph.grad_slot(x);
    Tensor partial;
    if (dy.on_gpu() && (w.trainable() || b.trainable())) {
      partial = Tensor::empty(ctx, {2, reduce_chunks(dy.rows()), dy.cols()}, DType::f32);
    }
    dispatch_float("layer_norm", dy.dtype(), [&](auto type) {
      using T = decltype(type);
      backward<T>(ctx, {.rows = dy.rows(),
                        .cols = dy.cols(),
                        .dy = dy.data<T>(),
                        .dy_stride = dy.row_stride(),
                        .x = x.value().template data<T>(),
                        .x_stride = x.value().row_stride(),
                        .w = w.value.data<T>(),
                        .mean = mean.data<float>(),
                        .inv_std = inv_std.data<float>(),
                        .dx = dx.tensor.defined() ? dx.tensor.data<T>() : nullptr,
                        .dx_stride = dx.tensor.row_stride(),
                        .accumulate = dx.accumulate,
                        .dw = grad_to_add(ctx, w),
                        .db = grad_to_add(ctx, b),
                        .partial = partial.defined() ? partial.data<float>() : nullptr});
    });
  });
}

}  // namespace matvlm
