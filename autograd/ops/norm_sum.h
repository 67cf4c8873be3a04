// The sum of the residual stream with the norm behind it in one pass: what the two norms' forward ops share.
#pragma once

#include <cstdint>
#include <vector>

#include "autograd/graph.h"
#include "autograd/ops/add.h"

namespace matvlm {

constexpr int kNormAddends = 2;  // of one launch

// With addends, the norm is that of x + addend[0] + ..., summed in float32 in this order, rounded to T and written to
// `sum`: the bits of sum_into() and of the norm behind it. On the GPU only.
template <class T>
struct NormSum {
  int addends = 0;
  const T* addend[kNormAddends] = {};  // [R, C]
  int64_t stride[kNormAddends] = {};
  T* sum = nullptr;  // [R, C]
  int64_t sum_stride = 0;
};

// Of terms of which the first is x; nothing to add where `sum` is undefined.
template <class T>
NormSum<T> norm_sum(const std::vector<Tensor>& terms, const Tensor& sum) {
  NormSum<T> out;
  if (!sum.defined()) return out;
  for (size_t i = 1; i < terms.size(); ++i) {
    out.addend[i - 1] = terms[i].data<T>();
    out.stride[i - 1] = terms[i].row_stride();
  }
  out.addends = static_cast<int>(terms.size()) - 1;
  out.sum = sum.data<T>();
  out.sum_stride = sum.row_stride();
  return out;
}

// A sum that is still to be formed, of one or more terms of one shape. Its gradient is handed to `last`, whose node
// hands it on to the terms before (linear() with a route as residual).
struct PendingSum {
  std::vector<Tensor> terms;
  Var last;
};

// The node of a pending sum of more than one term, given its value.
Var sum_node(Graph& g, const PendingSum& pending, Tensor value);
// The sum itself.
Var form_sum(Graph& g, const PendingSum& pending);

struct SumAndNorm {
  Var sum, normed;
};

// compute(values, sum): the norm's forward, which writes the sum where it is defined; norm_node(x, made) registers the
// norm of x from what compute returned.
template <class Compute, class NormNode>
SumAndNorm sum_and_norm(Graph& g, const PendingSum& pending, Compute&& compute, NormNode&& norm_node) {
  const std::vector<Tensor>& terms = pending.terms;
  if (terms.size() == 1 || terms.size() > 1 + kNormAddends || !g.ctx().on_gpu()) {
    const Var sum = form_sum(g, pending);
    return {sum, norm_node(sum, compute({sum.value()}, Tensor()))};
  }
  for (const Tensor& term : terms) {
    check_shape("norm", "term", term, terms[0].shape());
    check_dtype("norm", "term", term, terms[0].dtype());
  }
  const Tensor value = Tensor::empty(g.ctx(), terms[0].shape(), terms[0].dtype());
  const auto made = compute(terms, value);
  const Var sum = sum_node(g, pending, value);
  return {sum, norm_node(sum, made)};
}

}  // namespace matvlm
