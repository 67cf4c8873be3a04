// Checks, dispatch and nodes of the activations.
#include "autograd/ops/activation.h"

#include "autograd/ops/activation_cpu.h"
#include "core/dispatch.h"

namespace matvlm {
namespace {

// On the GPU cuda(args), else cpu(args), which has no bf16.
template <class Args, class Cuda, class Cpu>
void dispatch(Context& ctx, DType dtype, const Args& args, const Cuda& cuda, const Cpu& cpu) {
  dispatch_float("activation", dtype, [&](auto type) {
    using T = decltype(type);
    const auto on_cpu = [&] {
      if constexpr (std::is_same_v<T, float>) return cpu(args(type));
      fail("[activation] bf16 is for the GPU only");
    };
    dispatch_device(
        ctx, [&] { cuda(args(type)); }, on_cpu);
  });
}

}  // namespace

void activation_into(Context& ctx, Activation kind, const Tensor& x, const Tensor& y) {
  const auto args = [&](auto type) {
    using T = decltype(type);
    return ActivationForward<T>{.rows = x.rows(),
                                .cols = x.cols(),
                                .kind = kind,
                                .x = x.data<T>(),
                                .x_stride = x.row_stride(),
                                .y = y.data<T>(),
                                .y_stride = y.row_stride()};
  };
  dispatch(
      ctx, x.dtype(), args, [&](const auto& a) { activation_forward_cuda(ctx, a); },
      [](const auto& a) { activation_forward_cpu(a); });
}

void activation_gradient_into(Context& ctx, Activation kind, const Tensor& dy, const Tensor& x, const Tensor& dx,
                              bool accumulate) {
  const auto args = [&](auto type) {
    using T = decltype(type);
    return ActivationBackward<T>{.rows = dy.rows(),
                                 .cols = dy.cols(),
                                 .kind = kind,
                                 .dy = dy.data<T>(),
                                 .dy_stride = dy.row_stride(),
                                 .x = x.data<T>(),
                                 .x_stride = x.row_stride(),
                                 .dx = dx.data<T>(),
                                 .dx_stride = dx.row_stride(),
                                 .accumulate = accumulate};
  };
  dispatch(
      ctx, dy.dtype(), args, [&](const auto& a) { activation_backward_cuda(ctx, a); },
      [](const auto& a) { activation_backward_cpu(a); });
}

Var activation(Graph& g, const Var& x, Activation kind) {
  const Tensor& value = x.value();
  Tensor y = Tensor::empty(g.ctx(), value.shape(), value.dtype());
  activation_into(g.ctx(), kind, value, y);
  return g.node(y, {x}, {}, [x, kind](Graph& graph, const Tensor& dy) {
    const Graph::GradSlot dx = graph.grad_slot(x);
    activation_gradient_into(graph.ctx(), kind, dy, x.value(), dx.tensor, dx.accumulate);
  });
}

Var swiglu(Graph& g, const Var& gate, const Var& up) {
  check_shape("swiglu", "up", up.value(), gate.value().shape());
  check_dtype("swiglu", "up", up.value(), gate.value().dtype());
  Context& ctx = g.ctx();
  Tensor y = Tensor::empty(ctx, gate.value().shape(), gate.value().dtype());
  const auto args = [&](auto type) {
    using T = decltype(type);
    return SwigluForward<T>{.rows = y.rows(),
                            .cols = y.cols(),
                            .gate = gate.value().data<T>(),
                            .gate_stride = gate.value().row_stride(),
                            .up = up.value().data<T>(),
                            .up_stride = up.value().row_stride(),
                            .y = y.data<T>(),
                            .y_stride = y.row_stride()};
  };
  dispatch(
      ctx, y.dtype(), args, [&](const auto& a) { swiglu_forward_cuda(ctx, a); },
      [](const auto& a) { swiglu_forward_cpu(a); });
  return g.node(y, {gate, up}, {}, [gate, up](Graph& graph, const Tensor& dy) {
    Graph::GradSlot dgate;
    Graph::GradSlot dup;
    if (gate.requires_grad()) dgate = graph.grad_slot(gate);
    if (up.requires_grad()) dup = graph.grad_slot(up);
    const auto backward_args = [&](auto type) {
      using T = decltype(type);
      return SwigluBackward<T>{.rows = dy.rows(),
                               .cols = dy.cols(),
                               .dy = dy.data<T>(),
                               .dy_stride = dy.row_stride(),
                               .gate = gate.value().template data<T>(),
                               .gate_stride = gate.value().row_stride(),
                               .up = up.value().template data<T>(),
                               .up_stride = up.value().row_stride(),
                               .dgate = dgate.tensor.defined() ? dgate.tensor.data<T>() : nullptr,
                               .dgate_stride = dgate.tensor.row_stride(),
                               .accumulate_gate = dgate.accumulate,
                               .dup = dup.tensor.defined() ? dup.tensor.data<T>() : nullptr,
                               .dup_stride = dup.tensor.row_stride(),
                               .accumulate_up = dup.accumulate};
    };
    dispatch(
        graph.ctx(), dy.dtype(), backward_args, [&](const auto& a) { swiglu_backward_cuda(graph.ctx(), a); },
        [](const auto& a) { swiglu_backward_cpu(a); });
  });
}

}  // namespace matvlm
