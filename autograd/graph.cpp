// The engine; the arithmetic is in ops/.
#include "autograd/graph.h"

#include <algorithm>
#include <utility>

#include "autograd/ops/add.h"

namespace matvlm {

Var::Var() = default;
Var::Var(const Var&) = default;
Var::Var(Var&&) noexcept = default;
Var& Var::operator=(const Var&) = default;
Var& Var::operator=(Var&&) noexcept = default;
Var::~Var() = default;

Graph::Graph(Context& ctx, bool recording) : ctx_(ctx), recording_(recording) {}
Graph::~Graph() = default;

Var Graph::constant(Tensor value) {
  Var v;
  v.impl_ = std::make_shared<Var::Impl>();
  v.impl_->shape = value.shape();
  v.impl_->dtype = value.dtype();
  v.value_ = std::move(value);
  v.fp8_ = std::make_shared<Fp8Matrix>();
  return v;
}

Var Graph::input(Tensor value) {
  Var v = constant(std::move(value));
  v.impl_->requires_grad = recording_;
  v.impl_->is_leaf = true;
  return v;
}

Var Graph::node(Tensor output, const std::vector<Var>& inputs, const std::vector<Weight>& weights, Backward backward) {
  Var v = constant(std::move(output));
  if (!recording_) return v;
  bool needed = false;
  for (const Var& input : inputs) needed = needed || input.requires_grad();
  std::vector<Weight> trained;
  for (const Weight& weight : weights) {
    if (weight.trainable()) trained.push_back(weight);
  }
  if (!needed && trained.empty()) return v;
  v.impl_->requires_grad = true;
  if (collecting_) {
    collected_.insert(collected_.end(), trained.begin(), trained.end());
    return v;
  }
  for (const Weight& weight : trained) ++weight.param->pending_uses;
  nodes_.push_back({v.impl_, std::move(trained), std::move(backward)});
  return v;
}

Var Graph::slice_cols(const Var& x, int64_t begin, int64_t end) {
  Var v = constant(x.value().slice_cols(begin, end));
  v.impl_->requires_grad = x.requires_grad();
  if (v.impl_->requires_grad && !collecting_) {
    const bool nested = x.impl_->parent != nullptr;
    const int64_t shift = nested ? x.impl_->begin : 0;
    v.impl_->parent = nested ? x.impl_->parent : x.impl_;
    v.impl_->begin = shift + begin;
    v.impl_->end = shift + end;
  }
  return v;
}

Graph::GradSlot Graph::grad_slot(const Var& v) {
  check(v.requires_grad(), "[graph] gradient of a value that needs none");
  Var::Impl& impl = *v.impl_;
  if (impl.parent != nullptr) {
    Var::Impl& parent = *impl.parent;
    if (!parent.grad.defined()) {
      parent.grad = Tensor::empty(ctx_, parent.shape, parent.dtype);
      parent.gaps = {{0, parent.shape.back()}};
      if (parent.is_leaf) viewed_leaves_.push_back(impl.parent);
    }
    return columns_slot(parent, impl.begin, impl.end);
  }
  if (impl.grad.defined()) return columns_slot(impl, 0, impl.shape.back());
  impl.grad = Tensor::empty(ctx_, impl.shape, impl.dtype);
  return {impl.grad, false};
}

Graph::GradSlot Graph::columns_slot(Var::Impl& impl, int64_t begin, int64_t end) {
  const Tensor columns = impl.grad.slice_cols(begin, end);
  std::vector<std::pair<int64_t, int64_t>> left, inside;
  for (const auto& [gap_begin, gap_end] : impl.gaps) {
    if (gap_begin < begin) left.emplace_back(gap_begin, std::min(gap_end, begin));
    const std::pair<int64_t, int64_t> common(std::max(gap_begin, begin), std::min(gap_end, end));
    if (common.first < common.second) inside.push_back(common);
    if (gap_end > end) left.emplace_back(std::max(gap_begin, end), gap_end);
  }
  impl.gaps = std::move(left);
  if (inside.size() == 1 && inside[0] == std::pair(begin, end)) return {columns, false};
  for (const auto& [gap_begin, gap_end] : inside) impl.grad.slice_cols(gap_begin, gap_end).zero(ctx_);
  return {columns, true};
}

void Graph::fill_gaps(Var::Impl& impl) {
  for (const auto& [begin, end] : impl.gaps) impl.grad.slice_cols(begin, end).zero(ctx_);
  impl.gaps.clear();
}

void Graph::add_grad(const Var& v, Tensor contribution) {
  Var::Impl& impl = *v.impl_;
  check(contribution.shape() == impl.shape && contribution.dtype() == impl.dtype, "[graph] gradient of ",
        shape_string(impl.shape), ": found ", shape_string(contribution.shape()));
  if (impl.parent == nullptr && !impl.grad.defined() && contribution.contiguous()) {
    impl.grad = std::move(contribution);
    return;
  }
  const GradSlot slot = grad_slot(v);
  if (slot.accumulate) {
    add_into(ctx_, contribution, slot.tensor);
  } else {
    slot.tensor.copy_from(ctx_, contribution);
  }
}

void Graph::backward(const std::vector<Var>& roots) {
  for (const Var& root : roots) {
    if (!root.requires_grad()) continue;
    root.impl_->grad = Tensor::empty(ctx_, root.value().shape(), DType::f32);
  }
  run();
}

void Graph::backward(const Var& output, Tensor grad_output) {
  if (output.requires_grad()) add_grad(output, std::move(grad_output));
  run();
}

void Graph::run() {
  while (!nodes_.empty()) {
    Node node = std::move(nodes_.back());
    nodes_.pop_back();
    // Without a gradient (an output nothing used) the node contributes nothing, but its uses are over all the same.
    if (node.output->grad.defined()) {
      fill_gaps(*node.output);
      const Tensor grad = node.output->grad;
      node.output->grad = Tensor();
      node.backward(*this, grad);
    }
    for (const Weight& weight : node.weights) {
      if (--weight.param->pending_uses == 0 && hook_) hook_(*weight.param);
    }
  }
  for (const auto& leaf : viewed_leaves_) fill_gaps(*leaf);
  viewed_leaves_.clear();
}

Var Graph::recompute(const std::vector<Var>& inputs, const Block& block, const Remake& remake) {
  if (!recording_ || collecting_ || again_) return block(*this, inputs);
  Graph first(ctx_);
  first.collecting_ = true;
  Tensor output = block(first, inputs).value();
  // A weight may be used twice inside; it is one use of this node.
  std::vector<Weight> weights;
  for (const Weight& weight : first.collected_) {
    const bool known =
        std::any_of(weights.begin(), weights.end(), [&](const Weight& w) { return w.param == weight.param; });
    if (!known) weights.push_back(weight);
  }
  std::vector<Var> kept;
  for (const Var& x : inputs) kept.push_back(remake ? x.route() : x);
  return node(std::move(output), inputs, weights, [kept, block, remake](Graph& graph, const Tensor& grad_output) {
    run_again(graph.ctx_, kept, block, remake, grad_output);
  });
}

// The inputs are the outer graph's own values, so that what the block hands on goes straight into their gradients: the
// same sums in the same order as if the block had been recorded.
void Graph::run_again(Context& ctx, std::vector<Var> inputs, const Block& block, const Remake& remake,
                      const Tensor& grad_output) {
  Graph again(ctx);
  again.again_ = true;
  if (remake) {
    std::vector<Tensor> values = remake(ctx);
    for (size_t i = 0; i < inputs.size(); ++i) {
      inputs[i].value_ = std::move(values[i]);
      inputs[i].fp8_ = std::make_shared<Fp8Matrix>();
    }
  }
  Var output = block(again, inputs);
  if (output.requires_grad()) again.add_grad(output, grad_output);
  inputs.clear();  // from here on only the closures hold values
  output = Var();
  again.run();
}

}  // namespace matvlm
