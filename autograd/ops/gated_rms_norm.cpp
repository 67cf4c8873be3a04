// Checks, dispatch and autograd node of the gated RMSNorm.
#include "autograd/ops/gated_rms_norm.h"

#include <utility>

#include "autograd/ops/gated_rms_norm_cpu.h"
#include "autograd/ops/op_checks.h"
#include "core/dispatch.h"

namespace matvlm {
namespace {

constexpr const char* kOp = "gated_rms_norm";

void check_inputs(Graph& g, const Tensor& y, const Tensor& z, const Tensor& weight, int64_t group) {
  check(y.defined() && y.rank() == 2, "[", kOp, "] y: expected [T, C], found ", shape_string(y.shape()));
  const Device& device = g.ctx().device();
  check_operand(kOp, "y", y, y.shape(), y.dtype(), device);
  check(device.type == DeviceType::cuda || y.dtype() == DType::f32, "[", kOp, "] on the CPU: found ",
        dtype_name(y.dtype()), ", expected f32");
  check_operand(kOp, "z", z, y.shape(), y.dtype(), device);
  check_operand(kOp, "weight", weight, {y.dim(1)}, y.dtype(), device);
  check(group > 0 && y.dim(1) % group == 0, "[", kOp, "] group: found ", group, ", expected a divisor of ", y.dim(1));
}

template <class E>
GatedRmsNormArgs<E, float> make_args(const Tensor& y, const Tensor& z, const Tensor& weight, int64_t group,
                                     double eps) {
  GatedRmsNormArgs<E, float> a;
  a.tokens = y.dim(0);
  a.channels = y.dim(1);
  a.group = group;
  a.eps = eps;
  a.y = y.data<E>();
  a.y_stride = y.row_stride();
  a.z = z.data<E>();
  a.z_stride = z.row_stride();
  a.weight = weight.data<E>();
  return a;
}

template <class E>
void run_forward(Context& ctx, const GatedRmsNormArgs<E, float>& a) {
  const auto on_cpu = [&] {
    if constexpr (std::is_same_v<E, float>) gated_rms_norm_forward_cpu(a);
  };
  dispatch_device(
      ctx, [&] { gated_rms_norm_forward_cuda(ctx, a); }, on_cpu);
}

template <class E>
void run_backward(Context& ctx, const GatedRmsNormArgs<E, float>& a) {
  Tensor scratch;
  if constexpr (std::is_same_v<E, float>) {
    if (!ctx.on_gpu()) scratch = Tensor::empty(ctx, {gated_rms_norm_backward_scratch(a)}, DType::f32);
  }
  const auto on_cpu = [&] {
    if constexpr (std::is_same_v<E, float>) gated_rms_norm_backward_cpu(a, scratch.data<float>());
  };
  dispatch_device(
      ctx, [&] { gated_rms_norm_backward_cuda(ctx, a); }, on_cpu);
}

void backward(Graph& g, const Var& y, const Var& z, const Weight& weight, int64_t group, double eps,
              const Tensor& dout) {
  dispatch_float(kOp, y.value().dtype(), [&](auto element) {
    using E = decltype(element);
    auto a = make_args<E>(y.value(), z.value(), weight.value, group, eps);
    a.dout = dout.data<E>();
    a.dout_stride = dout.row_stride();
    a.dweight = grad_to_add(g.ctx(), weight);
    Graph::GradSlot dy;
    Graph::GradSlot dz;
    if (y.requires_grad()) {
      dy = g.grad_slot(y);
      a.dy = dy.tensor.data<E>();
      a.dy_stride = dy.tensor.row_stride();
      a.dy_accumulate = dy.accumulate;
    }
    if (z.requires_grad()) {
      dz = g.grad_slot(z);
      a.dz = dz.tensor.data<E>();
      a.dz_stride = dz.tensor.row_stride();
      a.dz_accumulate = dz.accumulate;
    }
    run_backward(g.ctx(), a);
  });
}

}  // namespace

Var gated_rms_norm(Graph& g, const Var& y, const Var& z, const Weight& weight, int64_t group, double eps) {
  check(y.defined() && z.defined(), "[", kOp, "] y or z is undefined");
  check_inputs(g, y.value(), z.value(), weight.value, group);
  Tensor out = Tensor::empty(g.ctx(), y.value().shape(), y.value().dtype());
  dispatch_float(kOp, y.value().dtype(), [&](auto element) {
    using E = decltype(element);
    auto a = make_args<E>(y.value(), z.value(), weight.value, group, eps);
    a.out = out.data<E>();
    a.out_stride = out.row_stride();
    run_forward(g.ctx(), a);
  });
  return g.node(std::move(out), {y, z}, {weight}, [y, z, weight, group, eps](Graph& graph, const Tensor& dout) {
    backward(graph, y, z, weight, group, eps, dout);
  });
}

}  // namespace matvlm
