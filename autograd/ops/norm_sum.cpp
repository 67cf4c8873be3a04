#include "autograd/ops/norm_sum.h"

#include <utility>

namespace matvlm {

Var sum_node(Graph& g, const PendingSum& pending, Tensor value) {
  return g.node(std::move(value), {pending.last}, {},
                [last = pending.last.route()](Graph& graph, const Tensor& grad) { graph.add_grad(last, grad); });
}

Var form_sum(Graph& g, const PendingSum& pending) {
  const std::vector<Tensor>& terms = pending.terms;
  if (terms.size() == 1) return pending.last;
  const Tensor value = Tensor::empty(g.ctx(), terms[0].shape(), terms[0].dtype());
  sum_into(g.ctx(), terms, value);
  return sum_node(g, pending, value);
}

}  // namespace matvlm
