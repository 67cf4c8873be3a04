// Attention: checks, dispatch, autograd node.
#include "autograd/ops/attention.h"

#include <omp.h>

#include "autograd/ops/add.h"
#include "autograd/ops/attention_args.h"
#include "autograd/ops/attention_cpu.h"
#include "autograd/ops/rotary_cpu.h"
#include "core/dispatch.h"

namespace matvlm {
namespace {

template <class T>
AttentionForwardArgs<T, float> forward_args(const AttentionShape& shape, const AttentionRanges& ranges, const Tensor& q,
                                            const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse) {
  AttentionForwardArgs<T, float> a = attention_forward_args<T>(shape, q, k, v, out, lse);
  a.ranges = ranges;
  return a;
}

struct Gradient {
  Graph::GradSlot slot;  // undefined tensor: not needed
  Tensor apart;          // where it is to be turned back before it is added to what is there

  Gradient(Graph& g, const Var& x, bool turned) {
    if (!x.requires_grad()) return;
    slot = g.grad_slot(x);
    if (turned && slot.accumulate) apart = Tensor::empty(g.ctx(), x.value().shape(), x.value().dtype());
  }
  template <class T>
  void put(T*& pointer, int64_t& stride, bool& accumulate) const {
    const Tensor& to = apart.defined() ? apart : slot.tensor;
    if (!to.defined()) return;
    pointer = to.data<T>();
    stride = to.row_stride();
    accumulate = slot.accumulate && !apart.defined();
  }
  void finish(Context& ctx) const {
    if (apart.defined()) add_into(ctx, apart, slot.tensor);
  }
};

// What the node captures.
struct Saved {
  AttentionShape shape;
  Var q, k, v;
  SeqlensPtr lens;
  Tensor out;
  Tensor lse;
  RotaryTurn turned;
};

AttentionRanges packed_ranges(const Context& ctx, const Seqlens& lens) {
  const int64_t* cu = ctx.on_gpu() ? lens.device_cu.data<int64_t>() : lens.cu.data();
  return {lens.batch(), lens.longest, lens.longest, cu, cu + 1, cu, cu + 1};
}

// For each thread, of an implementation on the CPU; undefined on a GPU.
Tensor cpu_scratch(Context& ctx, const AttentionRanges& ranges, int64_t arrays, int threads) {
  if (ctx.on_gpu()) return {};
  return Tensor::empty(ctx, {attention_scratch_cpu(ranges, arrays, threads)}, DType::f32);
}

template <class T>
AttentionBackwardArgs<T, float> backward_args(const Context& ctx, const Saved& saved, const Tensor& grad_output,
                                              const Tensor& delta, const Gradient& dq, const Gradient& dk,
                                              const Gradient& dv) {
  AttentionBackwardArgs<T, float> a;
  a.forward = forward_args<T>(saved.shape, packed_ranges(ctx, *saved.lens), saved.q.value(), saved.k.value(),
                              saved.v.value(), saved.out, saved.lse);
  a.grad_out = grad_output.data<T>();
  a.grad_out_stride = grad_output.row_stride();
  a.delta = delta.data<float>();
  dq.put(a.dq, a.dq_stride, a.accumulate_dq);
  dk.put(a.dk, a.dk_stride, a.accumulate_dk);
  dv.put(a.dv, a.dv_stride, a.accumulate_dv);
  a.turned = saved.turned.angles();
  return a;
}

void turn_back_cpu(Context& ctx, const AttentionBackwardArgs<float, float>& args) {
  for (const RotaryArgs<float>& turn : turns_back(args)) {
    const Tensor table = Tensor::empty(ctx, {turn.tokens, turn.rotary_dims}, DType::f32);
    rotary_cpu(turn, table.data<float>());
  }
}

void attention_backward(Graph& graph, const Saved& saved, const Tensor& grad_output) {
  Context& ctx = graph.ctx();
  const bool turned = saved.turned.dims() > 0;
  const Gradient dq(graph, saved.q, turned);
  const Gradient dk(graph, saved.k, turned);
  const Gradient dv(graph, saved.v, false);
  const Tensor delta = Tensor::empty(ctx, saved.lse.shape(), DType::f32);
  const auto on_gpu = [&] {
    dispatch_float("attention", grad_output.dtype(), [&](auto element) {
      using T = decltype(element);
      attention_backward_cuda(ctx, backward_args<T>(ctx, saved, grad_output, delta, dq, dk, dv));
    });
  };
  const int threads = omp_get_max_threads();
  const Tensor scratch = cpu_scratch(ctx, packed_ranges(ctx, *saved.lens), 2, threads);
  dispatch_device(ctx, on_gpu, [&] {
    const auto args = backward_args<float>(ctx, saved, grad_output, delta, dq, dk, dv);
    attention_backward_cpu(args, scratch.data<float>(), threads);
    turn_back_cpu(ctx, args);
  });
  for (const Gradient* gradient : {&dq, &dk}) gradient->finish(ctx);
}

void check_operand(const Context& ctx, const char* name, const Tensor& t, const Shape& expected, DType dtype) {
  check_shape("attention", name, t, expected);
  check_dtype("attention", name, t, dtype);
  check(t.device() == ctx.device(), "[attention] ", name, ": found on ", device_name(t.device()), ", expected ",
        device_name(ctx.device()));
}

}  // namespace

void check_attention_shape(const char* op, const AttentionShape& shape) {
  check(shape.heads > 0 && shape.kv_heads > 0 && shape.head_dim > 0, "[", op, "] found ", shape.heads, " heads, ",
        shape.kv_heads, " key heads, head width ", shape.head_dim, ", expected positive numbers");
  check(shape.heads % shape.kv_heads == 0, "[", op, "] heads: found ", shape.heads, ", expected a multiple of the ",
        shape.kv_heads, " key heads");
}

void attention_into(Context& ctx, const AttentionShape& shape, const AttentionRanges& ranges, const Tensor& q,
                    const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse) {
  if (q.numel() == 0) return;
  const auto on_gpu = [&] {
    dispatch_float("attention", q.dtype(), [&](auto element) {
      using T = decltype(element);
      attention_forward_cuda(ctx, forward_args<T>(shape, ranges, q, k, v, out, lse));
    });
  };
  if (!ctx.on_gpu()) check_dtype("attention", "q on the CPU", q, DType::f32);
  const int threads = omp_get_max_threads();
  const Tensor scratch = cpu_scratch(ctx, ranges, 1, threads);
  dispatch_device(ctx, on_gpu, [&] {
    attention_forward_cpu(forward_args<float>(shape, ranges, q, k, v, out, lse), scratch.data<float>(), threads);
  });
}

Var attention(Graph& g, const AttentionShape& shape, const Var& q, const Var& k, const Var& v, const SeqlensPtr& lens,
              const RotaryTurn& turned) {
  Context& ctx = g.ctx();
  check_attention_shape("attention", shape);
  const int64_t tokens = lens->tokens();
  const DType dtype = q.value().dtype();
  check_operand(ctx, "q", q.value(), {tokens, shape.heads * shape.head_dim}, dtype);
  check_operand(ctx, "k", k.value(), {tokens, shape.kv_heads * shape.head_dim}, dtype);
  check_operand(ctx, "v", v.value(), {tokens, shape.kv_heads * shape.head_dim}, dtype);
  if (turned.dims() > 0) {
    check_shape("attention", "positions of the rotation", turned.positions, {tokens});
    check(turned.dims() <= shape.head_dim, "[attention] rotary dims: found ", turned.dims(),
          ", expected at most the head width ", shape.head_dim);
  }
  const bool record = g.recording() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
  // Their gradients are written at the same time.
  const auto same = [](const Var& x, const Var& y) { return x.value().raw() == y.value().raw(); };
  check(!record || tokens == 0 || !(same(q, k) || same(k, v) || same(q, v)),
        "[attention] q, k and v: found two at one address, expected three values");
  const Tensor out = Tensor::empty(ctx, q.value().shape(), dtype);
  const Tensor lse = record ? Tensor::empty(ctx, {shape.heads, tokens}, DType::f32) : Tensor();
  attention_into(ctx, shape, packed_ranges(ctx, *lens), q.value(), k.value(), v.value(), out, lse);
  const Saved saved{shape, q, k, v, lens, out, lse, turned};
  return g.node(out, {q, k, v}, {}, [saved](Graph& graph, const Tensor& grad_output) {
    if (grad_output.numel() > 0) attention_backward(graph, saved, grad_output);
  });
}

}  // namespace matvlm
