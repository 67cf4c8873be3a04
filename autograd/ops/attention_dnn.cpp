// The autograd node of attention by cuDNN, and how a packed row is shown to it.
#include "autograd/ops/attention_dnn.h"

#include <algorithm>

#include "autograd/ops/add.h"
#include "autograd/ops/attention_args.h"

namespace matvlm {
namespace {

constexpr int64_t kPadding = 128;  // lengths that differ count as multiples of this, so that plans are few

// Where cuDNN writes a gradient: the place where it belongs if nothing is there yet, else a tensor of its own, which is
// added, or dropped if nobody wants it.
struct Gradient {
  Graph::GradSlot slot;
  Tensor written;

  Gradient(Graph& g, const Var& x) {
    if (x.requires_grad()) slot = g.grad_slot(x);
    const bool in_place = slot.tensor.defined() && !slot.accumulate;
    written = in_place ? slot.tensor : Tensor::empty(g.ctx(), x.value().shape(), x.value().dtype());
  }
  void finish(Context& ctx) const {
    if (slot.tensor.defined() && slot.accumulate) add_into(ctx, written, slot.tensor);
  }
};

struct Saved {
  std::shared_ptr<DnnAttention> dnn;
  AttentionShape shape;
  Var q, k, v;
  SeqlensPtr lens;
  Tensor out;
  Tensor lse;
};

void backward(Graph& g, const Saved& s, const Tensor& grad_output) {
  Context& ctx = g.ctx();
  const Gradient dq(g, s.q), dk(g, s.k), dv(g, s.v);
  AttentionBackwardArgs<bf16, float> a;
  a.forward = attention_forward_args<bf16>(s.shape, s.q.value(), s.k.value(), s.v.value(), s.out, s.lse);
  a.grad_out = grad_output.data<bf16>();
  a.grad_out_stride = grad_output.row_stride();
  a.dq = dq.written.data<bf16>();
  a.dk = dk.written.data<bf16>();
  a.dv = dv.written.data<bf16>();
  a.dq_stride = dq.written.row_stride();
  a.dk_stride = dk.written.row_stride();
  a.dv_stride = dv.written.row_stride();
  attention_backward_dnn(ctx, *s.dnn, *s.lens, a);
  for (const Gradient* gradient : {&dq, &dk, &dv}) gradient->finish(ctx);
}

}  // namespace

DnnAttentionRows dnn_attention_rows(const Seqlens& lens) {
  DnnAttentionRows rows;
  rows.cu = lens.cu;
  rows.cu.erase(std::unique(rows.cu.begin(), rows.cu.end()), rows.cu.end());
  rows.batch = static_cast<int64_t>(rows.cu.size()) - 1;
  // One query of one key is a case that cuDNN's backward does not have.
  rows.uniform = lens.longest > 1 && rows.batch * lens.longest == lens.tokens();
  rows.length = rows.uniform ? lens.longest : (lens.longest + kPadding - 1) / kPadding * kPadding;
  return rows;
}

Var attention_dnn(Graph& g, const std::shared_ptr<DnnAttention>& dnn, const AttentionShape& shape, const Var& q,
                  const Var& k, const Var& v, const SeqlensPtr& lens) {
  Context& ctx = g.ctx();
  check_attention_shape("attention", shape);
  const int64_t tokens = lens->tokens();
  for (const auto& [name, x, heads] :
       {std::tuple{"q", &q, shape.heads}, std::tuple{"k", &k, shape.kv_heads}, std::tuple{"v", &v, shape.kv_heads}}) {
    check_shape("attention", name, x->value(), {tokens, heads * shape.head_dim});
    check_dtype("attention, back end cudnn", name, x->value(), DType::bf16);
  }
  const bool record = g.recording() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
  const Tensor out = Tensor::empty(ctx, q.value().shape(), DType::bf16);
  Tensor lse;
  if (record) {
    const DnnAttentionRows rows = dnn_attention_rows(*lens);
    lse = Tensor::empty(ctx, {rows.batch, shape.heads, rows.length}, DType::f32);
  }
  if (tokens > 0) {
    attention_forward_dnn(ctx, *dnn, *lens,
                          attention_forward_args<bf16>(shape, q.value(), k.value(), v.value(), out, lse));
  }
  const Saved saved{dnn, shape, q, k, v, lens, out, lse};
  return g.node(out, {q, k, v}, {}, [saved](Graph& graph, const Tensor& grad_output) {
    if (grad_output.numel() > 0) backward(graph, saved, grad_output);
  });
}

}  // namespace matvlm
