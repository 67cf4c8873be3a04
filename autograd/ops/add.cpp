// Checks and dispatch of the sums, and their node.
#include "autograd/ops/add.h"

#include "autograd/ops/add_cpu.h"
#include "autograd/ops/add_device.h"
#include "core/dispatch.h"

namespace matvlm {
namespace {

// More terms than one launch takes go in chunks; the result then is rounded in between.
void add_terms_cuda(Context& ctx, const std::vector<Tensor>& terms, const Tensor& dst) {
  const auto count = static_cast<int64_t>(terms.size());
  for (int64_t begin = 0; begin < count; begin += kMaxAddTerms) {
    AddDeviceArgs args{.rows = dst.rows(),
                       .cols = dst.cols(),
                       .dst = dst.raw(),
                       .dst_stride = dst.row_stride(),
                       .accumulate = begin > 0,
                       .dtype = dst.dtype()};
    for (; args.count < kMaxAddTerms && begin + args.count < count; ++args.count) {
      const Tensor& term = terms[static_cast<size_t>(begin + args.count)];
      args.terms[args.count] = term.raw();
      args.strides[args.count] = term.row_stride();
    }
    add_cuda(ctx, args);
  }
}

void accumulate(Graph& graph, const Tensor& grad, const Var& x) {
  const Graph::GradSlot slot = graph.grad_slot(x);
  if (slot.accumulate) {
    add_into(graph.ctx(), grad, slot.tensor);
  } else {
    slot.tensor.copy_from(graph.ctx(), grad);
  }
}

}  // namespace

void sum_into(Context& ctx, const std::vector<Tensor>& terms, const Tensor& dst) {
  for (const Tensor& term : terms) {
    check_shape("add", "term", term, dst.shape());
    check_dtype("add", "term", term, dst.dtype());
  }
  if (dst.numel() == 0) return;
  const auto on_cpu = [&] {
    dispatch_float("add", dst.dtype(), [&](auto type) {
      using T = decltype(type);
      std::vector<const T*> pointers;
      std::vector<int64_t> strides;
      for (const Tensor& term : terms) {
        pointers.push_back(term.data<T>());
        strides.push_back(term.row_stride());
      }
      add_cpu<T>(dst.rows(), dst.cols(), static_cast<int64_t>(terms.size()), pointers.data(), strides.data(),
                 dst.data<T>(), dst.row_stride());
    });
  };
  dispatch_device(
      ctx, [&] { add_terms_cuda(ctx, terms, dst); }, on_cpu);
}

void add_into(Context& ctx, const Tensor& src, const Tensor& dst) {
  check_shape("add_into", "src", src, dst.shape());
  check_dtype("add_into", "src", src, dst.dtype());
  if (dst.numel() == 0) return;
  const auto on_gpu = [&] {
    AddDeviceArgs args{.rows = dst.rows(),
                       .cols = dst.cols(),
                       .count = 1,
                       .dst = dst.raw(),
                       .dst_stride = dst.row_stride(),
                       .accumulate = true,
                       .dtype = dst.dtype()};
    args.terms[0] = src.raw();
    args.strides[0] = src.row_stride();
    add_cuda(ctx, args);
  };
  const auto on_cpu = [&] {
    dispatch_float("add_into", dst.dtype(), [&](auto type) {
      using T = decltype(type);
      add_into_cpu<T>(dst.rows(), dst.cols(), src.data<T>(), src.row_stride(), dst.data<T>(), dst.row_stride());
    });
  };
  dispatch_device(ctx, on_gpu, on_cpu);
}

Var add(Graph& g, const std::vector<Var>& terms) {
  check(terms.size() >= 2, "[add] found ", terms.size(), " terms, expected two or more");
  std::vector<Tensor> values;
  for (const Var& term : terms) values.push_back(term.value());
  Tensor y = Tensor::empty(g.ctx(), values[0].shape(), values[0].dtype());
  sum_into(g.ctx(), values, y);
  std::vector<Var> routes;
  for (const Var& term : terms) routes.push_back(term.route());
  return g.node(y, terms, {}, [routes](Graph& graph, const Tensor& grad_output) {
    // The incoming gradient is moved into the last term that wants one; the others get copies before, because later
    // contributions are added into what was moved.
    const Var* last = nullptr;
    for (const Var& term : routes) {
      if (!term.requires_grad()) continue;
      if (last != nullptr) accumulate(graph, grad_output, *last);
      last = &term;
    }
    if (last != nullptr) graph.add_grad(*last, grad_output);
  });
}

}  // namespace matvlm
