// Arguments of an attention forward out of tensors, for the kernels of this program and for cuDNN's, and those of the
// rotations behind a backward.
#pragma once

#include <vector>

#include "autograd/ops/attention.h"

namespace matvlm {

// Shapes as in attention.h; `lse` may be undefined. The ranges of keys are left to the caller.
template <class T>
AttentionForwardArgs<T, float> attention_forward_args(const AttentionShape& shape, const Tensor& q, const Tensor& k,
                                                      const Tensor& v, const Tensor& out, const Tensor& lse) {
  AttentionForwardArgs<T, float> a;
  a.shape = shape;
  a.tokens = q.rows();
  a.kv_rows = k.rows();
  a.q = q.data<T>();
  a.k = k.data<T>();
  a.v = v.data<T>();
  a.out = out.data<T>();
  a.q_stride = q.row_stride();
  a.k_stride = k.row_stride();
  a.v_stride = v.row_stride();
  a.out_stride = out.row_stride();
  a.lse = lse.defined() ? lse.data<float>() : nullptr;
  return a;
}

// The rotations in place that take dq and dk back to before a.turned; one where they lie side by side, as in the
// gradient of a joined projection.
template <class T, class S>
std::vector<RotaryArgs<T>> turns_back(const AttentionBackwardArgs<T, S>& a) {
  std::vector<RotaryArgs<T>> turns;
  const auto add = [&](int64_t heads, T* gradient, int64_t stride) {
    if (a.turned.dims == 0 || gradient == nullptr) return;
    RotaryArgs<T> r;
    r.tokens = a.forward.tokens;
    r.heads = heads;
    r.head_dim = a.forward.shape.head_dim;
    r.rotary_dims = a.turned.dims;
    r.inverse = true;
    r.positions = a.turned.positions;
    r.frequencies = a.turned.frequencies;
    r.x = r.y = gradient;
    r.x_stride = r.y_stride = stride;
    turns.push_back(r);
  };
  const AttentionShape& shape = a.forward.shape;
  const bool joined = a.dq != nullptr && a.dk == a.dq + shape.heads * shape.head_dim && a.dk_stride == a.dq_stride;
  add(shape.heads + (joined ? shape.kv_heads : 0), a.dq, a.dq_stride);
  if (!joined) add(shape.kv_heads, a.dk, a.dk_stride);
  return turns;
}

}  // namespace matvlm
