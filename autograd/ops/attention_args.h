// Arguments of an attention forward out of tensors, for the kernels of this program and for cuDNN's.
#pragma once

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

}  // namespace matvlm
