// Checks, dispatch and autograd node of the SSD recurrence.
#include "autograd/ops/ssd.h"

#include <utility>

#include "autograd/ops/op_checks.h"
#include "autograd/ops/ssd_cpu.h"
#include "core/dispatch.h"

namespace matvlm {
namespace {

constexpr const char* kOp = "ssd";

// What forward and backward share; captured by the node.
struct Inputs {
  SsdShape shape;
  Var x, b, c, dt;
  Weight a_log, d, dt_bias;
  SeqlensPtr lens;
};

void check_groups(const char* argument, int64_t groups, int64_t heads) {
  check(groups > 0 && heads % groups == 0, "[", kOp, "] ", argument, ": found ", groups, ", expected a divisor of ",
        heads, " heads");
}

void check_inputs(Graph& g, const Inputs& in) {
  const SsdShape& s = in.shape;
  check(s.heads > 0 && s.head_dim > 0 && s.state > 0, "[", kOp, "] found ", s.heads, " heads of width ", s.head_dim,
        " and state size ", s.state);
  check_groups("x_groups", s.x_groups, s.heads);
  check_groups("b_groups", s.b_groups, s.heads);
  check_groups("c_groups", s.c_groups, s.heads);
  for (const Var* v : {&in.x, &in.b, &in.c, &in.dt}) check(v->defined(), "[", kOp, "] x, b, c or dt is undefined");
  const Tensor& x = in.x.value();
  check(x.defined() && x.rank() == 2, "[", kOp, "] x: expected [T, groups*P], found ", shape_string(x.shape()));
  const Device& device = g.ctx().device();
  const DType dtype = x.dtype();
  const int64_t tokens = x.dim(0);
  check_operand(kOp, "x", x, {tokens, s.x_groups * s.head_dim}, dtype, device);
  check_operand(kOp, "b", in.b.value(), {tokens, s.b_groups * s.state}, dtype, device);
  check_operand(kOp, "c", in.c.value(), {tokens, s.c_groups * s.state}, dtype, device);
  check_operand(kOp, "dt", in.dt.value(), {tokens, s.heads}, dtype, device);
  check_operand(kOp, "a_log", in.a_log.value, {s.heads}, DType::f32, device);
  check_operand(kOp, "d", in.d.value, {s.heads}, DType::f32, device);
  check_operand(kOp, "dt_bias", in.dt_bias.value, {s.heads}, DType::f32, device);
  check_lens(kOp, in.lens, tokens);
  if (device.type == DeviceType::cpu) {
    check(dtype == DType::f32, "[", kOp, "] on the CPU: found ", dtype_name(dtype), ", expected f32");
  } else {
    check(s.head_dim <= kSsdMaxCudaWidth && s.state <= kSsdMaxCudaWidth, "[", kOp, "] on a GPU: found head width ",
          s.head_dim, " and state size ", s.state, ", expected at most ", kSsdMaxCudaWidth);
  }
}

template <class E>
SsdArgs<E, float> make_args(const Inputs& in) {
  SsdArgs<E, float> a;
  a.shape = in.shape;
  a.tokens = in.x.value().dim(0);
  a.batch = in.lens->batch();
  a.longest = in.lens->longest;
  a.cu = device_cu(*in.lens, in.x.value().on_gpu());
  a.x = in.x.value().data<E>();
  a.x_stride = in.x.value().row_stride();
  a.b = in.b.value().data<E>();
  a.b_stride = in.b.value().row_stride();
  a.c = in.c.value().data<E>();
  a.c_stride = in.c.value().row_stride();
  a.dt = in.dt.value().data<E>();
  a.dt_stride = in.dt.value().row_stride();
  a.a_log = in.a_log.value.data<float>();
  a.d = in.d.value.data<float>();
  a.dt_bias = in.dt_bias.value.data<float>();
  return a;
}

template <class E>
void set_state(SsdArgs<E, float>& a, const StateIo& state) {
  if (state.initial.defined()) a.initial = state.initial.data<float>();
  if (state.slots.defined()) a.slots = state.slots.data<int64_t>();
  if (state.final.defined()) a.final_state = state.final.data<float>();
  if (state.every.defined()) a.every = state.every.data<float>();
}

template <class E>
void run_forward(Context& ctx, const SsdArgs<E, float>& a, Tensor* steps) {
  const auto on_cpu = [&] {
    if constexpr (std::is_same_v<E, float>) ssd_forward_cpu(a);
  };
  dispatch_device(
      ctx, [&] { ssd_forward_cuda(ctx, a, steps); }, on_cpu);
}

template <class E>
void run_backward(Context& ctx, const SsdArgs<E, float>& a, const Tensor& steps) {
  Tensor scratch;
  if constexpr (std::is_same_v<E, float>) {
    if (!ctx.on_gpu()) scratch = Tensor::empty(ctx, {ssd_backward_scratch(a)}, DType::f32);
  }
  const auto on_cpu = [&] {
    if constexpr (std::is_same_v<E, float>) ssd_backward_cpu(a, scratch.data<float>());
  };
  dispatch_device(
      ctx, [&] { ssd_backward_cuda(ctx, a, steps); }, on_cpu);
}

// The slot keeps the buffer alive while the op writes into it.
template <class E>
void set_gradient(Graph& g, const Var& v, Graph::GradSlot& slot, E*& pointer, int64_t& stride, bool& accumulate) {
  if (!v.requires_grad()) return;
  slot = g.grad_slot(v);
  pointer = slot.tensor.data<E>();
  stride = slot.tensor.row_stride();
  accumulate = slot.accumulate;
}

void backward(Graph& g, const Inputs& in, const Tensor& steps, const Tensor& dy) {
  dispatch_float(kOp, in.x.value().dtype(), [&](auto element) {
    using E = decltype(element);
    auto a = make_args<E>(in);
    a.dy = dy.data<E>();
    a.dy_stride = dy.row_stride();
    Graph::GradSlot dx, db, dc, ddt;
    set_gradient(g, in.x, dx, a.dx, a.dx_stride, a.dx_accumulate);
    set_gradient(g, in.b, db, a.db, a.db_stride, a.db_accumulate);
    set_gradient(g, in.c, dc, a.dc, a.dc_stride, a.dc_accumulate);
    set_gradient(g, in.dt, ddt, a.ddt, a.ddt_stride, a.ddt_accumulate);
    a.da_log = grad_to_add(g.ctx(), in.a_log);
    a.dd = grad_to_add(g.ctx(), in.d);
    a.ddt_bias = grad_to_add(g.ctx(), in.dt_bias);
    run_backward(g.ctx(), a, steps);
  });
}

}  // namespace

Var ssd(Graph& g, const SsdShape& shape, const Var& x, const Var& b, const Var& c, const Var& dt, const Weight& a_log,
        const Weight& d, const Weight& dt_bias, const SeqlensPtr& lens, const StateIo* state) {
  const Inputs in{shape, x, b, c, dt, a_log, d, dt_bias, lens};
  check_inputs(g, in);
  const int64_t tokens = x.value().dim(0);
  if (state != nullptr) {
    check_state(kOp, *state, g.recording(), {shape.heads, shape.head_dim, shape.state}, DType::f32, tokens,
                lens->batch(), g.ctx().device());
  }
  Tensor y = Tensor::empty(g.ctx(), {tokens, shape.heads * shape.head_dim}, x.value().dtype());
  Tensor steps;
  dispatch_float(kOp, x.value().dtype(), [&](auto element) {
    using E = decltype(element);
    auto a = make_args<E>(in);
    a.y = y.data<E>();
    a.y_stride = y.row_stride();
    if (state != nullptr) set_state(a, *state);
    run_forward(g.ctx(), a, g.recording() ? &steps : nullptr);
  });
  return g.node(std::move(y), {x, b, c, dt}, {a_log, d, dt_bias},
                [in, steps](Graph& graph, const Tensor& dy) { backward(graph, in, steps, dy); });
}

}  // namespace matvlm
