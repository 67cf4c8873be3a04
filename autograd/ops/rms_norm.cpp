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

}  // namespace

Var rms_norm(Graph& g, const Var& x, const Weight& w, double eps) {
  const Tensor& value = x.value();
  check_shape("rms_norm", "weight", w.value, {value.cols()});
  Tensor y = Tensor::empty(g.ctx(), value.shape(), value.dtype());
  Tensor inv_rms = Tensor::empty(g.ctx(), {value.rows()}, DType::f32);
  dispatch_float("rms_norm", value.dtype(), [&](auto type) {
    using T = decltype(type);
    forward<T>(g.ctx(), {.rows = value.rows(),
                         .cols = value.cols(),
                         .x = value.data<T>(),
                         .x_stride = value.row_stride(),
                         .w = w.value.data<T>(),
                         .eps = eps,
                         .y = y.data<T>(),
                         .y_stride = y.row_stride(),
                         .inv_rms = inv_rms.data<float>()});
  });
  return g.node(y, {x}, {w}, [x, w, inv_rms](Graph& graph, const Tensor& dy) {
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

}  // namespace matvlm
