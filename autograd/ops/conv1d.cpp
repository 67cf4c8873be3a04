// Checks, dispatch and autograd node of the causal convolution.
#include "autograd/ops/conv1d.h"

#include "autograd/ops/conv1d_cpu.h"
#include "autograd/ops/op_checks.h"
#include "core/dispatch.h"

namespace matvlm {
namespace {

constexpr const char* kOp = "conv1d";

void check_inputs(Graph& g, const Tensor& x, const Tensor& weight, const Tensor& bias, const SeqlensPtr& lens) {
  check(x.defined() && x.rank() == 2, "[", kOp, "] x: expected [T, C], found ", shape_string(x.shape()));
  const Device& device = g.ctx().device();
  check_operand(kOp, "x", x, x.shape(), x.dtype(), device);
  check(device.type == DeviceType::cuda || x.dtype() == DType::f32, "[", kOp, "] on the CPU: found ",
        dtype_name(x.dtype()), ", expected f32");
  const int64_t channels = x.dim(1);
  const int64_t width = weight.defined() ? weight.dim(-1) : 0;
  check(width >= 2 && width <= kConvMaxWidth, "[", kOp, "] weight: found ", width, " taps, expected 2 to ",
        kConvMaxWidth);
  check_operand(kOp, "weight", weight, {channels, 1, width}, x.dtype(), device);
  check_contiguous(kOp, "weight", weight);
  check_operand(kOp, "bias", bias, {channels}, x.dtype(), device);
  check_lens(kOp, lens, x.dim(0));
}

template <class E, class F>
Conv1dArgs<E, F> make_args(const Tensor& x, const Tensor& weight, const Tensor& bias, const Seqlens& lens) {
  Conv1dArgs<E, F> a;
  a.tokens = x.dim(0);
  a.channels = x.dim(1);
  a.width = weight.dim(-1);
  a.batch = lens.batch();
  a.longest = lens.longest;
  a.cu = device_cu(lens, x.on_gpu());
  a.x = x.data<E>();
  a.x_stride = x.row_stride();
  a.weight = weight.data<E>();
  a.bias = bias.data<E>();
  return a;
}

template <class E>
void run_forward(Context& ctx, const Conv1dArgs<E, float>& a) {
  const auto on_cpu = [&] {
    if constexpr (std::is_same_v<E, float>) conv1d_forward_cpu(a);
  };
  dispatch_device(
      ctx, [&] { conv1d_forward_cuda(ctx, a); }, on_cpu);
}

template <class E>
void run_backward(Context& ctx, const Conv1dArgs<E, float>& a) {
  const auto on_cpu = [&] {
    if constexpr (std::is_same_v<E, float>) conv1d_backward_cpu(a);
  };
  dispatch_device(
      ctx, [&] { conv1d_backward_cuda(ctx, a); }, on_cpu);
}

template <class E>
void set_state(Conv1dArgs<E, float>& a, const StateIo& state) {
  if (state.initial.defined()) a.initial = state.initial.data<E>();
  if (state.slots.defined()) a.slots = state.slots.data<int64_t>();
  if (state.final.defined()) a.final_state = state.final.data<E>();
  if (state.every.defined()) a.every = state.every.data<E>();
}

void backward(Graph& g, const Var& x, const Weight& weight, const Weight& bias, const Seqlens& lens, const Tensor& dy) {
  dispatch_float(kOp, x.value().dtype(), [&](auto element) {
    using E = decltype(element);
    auto a = make_args<E, float>(x.value(), weight.value, bias.value, lens);
    a.dy = dy.data<E>();
    a.dy_stride = dy.row_stride();
    a.dweight = grad_to_add(g.ctx(), weight);
    a.dbias = grad_to_add(g.ctx(), bias);
    Graph::GradSlot slot;
    if (x.requires_grad()) {
      slot = g.grad_slot(x);
      a.dx = slot.tensor.data<E>();
      a.dx_stride = slot.tensor.row_stride();
      a.dx_accumulate = slot.accumulate;
    }
    run_backward(g.ctx(), a);
  });
}

}  // namespace

Var causal_conv1d_silu(Graph& g, const Var& x, const Weight& weight, const Weight& bias, const SeqlensPtr& lens,
                       const StateIo* state) {
  check(x.defined(), "[", kOp, "] x is undefined");
  check_inputs(g, x.value(), weight.value, bias.value, lens);
  const int64_t tokens = x.value().dim(0);
  const int64_t channels = x.value().dim(1);
  if (state != nullptr) {
    check_state(kOp, *state, g.recording(), {weight.value.dim(-1) - 1, channels}, x.value().dtype(), tokens,
                lens->batch(), g.ctx().device());
  }
  Tensor y = Tensor::empty(g.ctx(), {tokens, channels}, x.value().dtype());
  dispatch_float(kOp, x.value().dtype(), [&](auto element) {
    using E = decltype(element);
    auto a = make_args<E, float>(x.value(), weight.value, bias.value, *lens);
    a.y = y.data<E>();
    a.y_stride = y.row_stride();
    if (state != nullptr) set_state(a, *state);
    run_forward(g.ctx(), a);
  });
  return g.node(std::move(y), {x}, {weight, bias}, [x, weight, bias, lens](Graph& graph, const Tensor& dy) {
    backward(graph, x, weight, bias, *lens, dy);
  });
}

}  // namespace matvlm
