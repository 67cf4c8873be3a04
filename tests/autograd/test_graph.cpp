// The engine: order and accumulation, column views, recomputation, parameter hooks, outputs that nothing uses.
#include "autograd/graph.h"

#include <limits>
#include <utility>

#include "autograd/ops/activation.h"
#include "autograd/ops/add.h"
#include "autograd/ops/layer_norm.h"
#include "autograd/ops/linear.h"
#include "core/allocator.h"
#include "tests/support/op_cases.h"

namespace matvlm::testing {
namespace {

using Floats = std::vector<float>;

Tensor row(const Floats& values) { return Tensor::from(cpu(), values, {1, static_cast<int64_t>(values.size())}); }

// y = factor * x with a backward that notes `id`.
Var scale(Graph& g, const Var& x, float factor, int id, std::vector<int>* order) {
  Floats values = x.value().to_floats(g.ctx());
  for (float& v : values) v *= factor;
  return g.node(Tensor::from(g.ctx(), values, x.value().shape()), {x}, {},
                [x, factor, id, order](Graph& graph, const Tensor& dy) {
                  order->push_back(id);
                  if (!x.requires_grad()) return;
                  Floats grad = dy.to_floats(graph.ctx());
                  for (float& v : grad) v *= factor;
                  graph.add_grad(x, Tensor::from(graph.ctx(), grad, dy.shape()));
                });
}

// A loss term in the convention of the engine: its closure ignores the incoming gradient.
Var sum_term(Graph& g, const Var& x, float weight) {
  float sum = 0;
  for (const float v : x.value().to_floats(g.ctx())) sum += v;
  return g.node(Tensor::from(g.ctx(), Floats{weight * sum}, {1}), {x}, {}, [x, weight](Graph& graph, const Tensor&) {
    graph.add_grad(
        x, Tensor::from(graph.ctx(), Floats(static_cast<size_t>(x.value().numel()), weight), x.value().shape()));
  });
}

TEST(Graph, ReverseCreationOrderAndAccumulation) {
  Graph g(cpu());
  std::vector<int> order;
  const Var x = g.input(row({1, 2}));
  const Var a = scale(g, x, 2, 0, &order);
  const Var b = scale(g, x, 3, 1, &order);
  const Var c = scale(g, a, 10, 2, &order);
  const Var y = add(g, {c, b, a});
  EXPECT_EQ(g.size(), 4);
  g.backward(y, row({1, 100}));
  EXPECT_EQ(order, (std::vector<int>{2, 1, 0}));
  EXPECT_EQ(x.grad().to_floats(cpu()), (Floats{25, 2500}));
  EXPECT_EQ(g.size(), 0);
}

TEST(Graph, LossTermsAddUp) {
  Graph g(cpu());
  std::vector<int> order;
  const Var x = g.input(row({1, 2, 3}));
  const Var a = scale(g, x, 2, 0, &order);
  const Var first = sum_term(g, a, 0.5F);
  const Var second = sum_term(g, x, 4.0F);
  g.backward(std::vector<Var>{first, second});
  EXPECT_EQ(x.grad().to_floats(cpu()), (Floats{5, 5, 5}));
}

TEST(Graph, NothingIsRecordedWithoutNeed) {
  std::vector<int> order;
  Graph g(cpu());
  const Var constant = g.constant(row({1}));
  EXPECT_FALSE(scale(g, constant, 2, 0, &order).requires_grad());
  EXPECT_EQ(g.size(), 0);
  Graph forward_only(cpu(), false);
  EXPECT_FALSE(scale(forward_only, forward_only.input(row({1})), 2, 0, &order).requires_grad());
  EXPECT_EQ(forward_only.size(), 0);
}

TEST(Graph, UnusedOutputIsSkipped) {
  Graph g(cpu());
  std::vector<int> order;
  const Var x = g.input(row({1}));
  const Var used = scale(g, x, 2, 0, &order);
  scale(g, x, 7, 1, &order);
  g.backward(used, row({1}));
  EXPECT_EQ(order, (std::vector<int>{0}));
  EXPECT_EQ(x.grad().to_floats(cpu()), (Floats{2}));
}

TEST(Graph, InputThatNothingReachesHasNoGradient) {
  Graph g(cpu());
  std::vector<int> order;
  const Var x = g.input(row({1}));
  const Var z = g.input(row({1}));
  g.backward(scale(g, x, 2, 0, &order), row({1}));
  EXPECT_FALSE(z.grad().defined());
}

// The gradient buffer of `shape` that the graph takes next starts as NaN: what an op or the engine forgets to write
// shows.
void poison(const Shape& shape) {
  const Floats nan(static_cast<size_t>(shape_numel(shape)), std::numeric_limits<float>::quiet_NaN());
  Tensor::from(cpu(), nan, shape);  // freed at once, and the allocator hands it out again
}

// Views of `ranges`, each of which gets `contributions[i]` constant gradients `10^i`; what grad_slot says each time, in
// order, and the parent's gradient for one row.
struct ViewRun {
  std::vector<bool> accumulate;
  Floats grad;
};
ViewRun run_views(int64_t columns, const std::vector<std::pair<int64_t, int64_t>>& ranges,
                  const std::vector<int>& contributions, bool leaf) {
  Graph g(cpu());
  ViewRun run;
  const Var input = g.input(Tensor::zeros(cpu(), {2, columns}, DType::f32));
  const Var x = leaf ? input : g.node(input.value(), {input}, {}, [input](Graph& graph, const Tensor& dy) {
    graph.add_grad(input, dy.clone(graph.ctx()));
  });
  std::vector<Var> roots;
  float value = 1.0F;
  for (size_t i = 0; i < ranges.size(); ++i, value *= 10.0F) {
    const Var view = g.slice_cols(x, ranges[i].first, ranges[i].second);
    for (int n = 0; n < contributions[i]; ++n) {
      roots.push_back(g.node(row({0}), {view}, {}, [view, value, &run](Graph& graph, const Tensor&) {
        poison({2, view.value().row_stride()});
        const Graph::GradSlot slot = graph.grad_slot(view);
        run.accumulate.push_back(slot.accumulate);
        const Tensor all =
            Tensor::from(graph.ctx(), Floats(static_cast<size_t>(view.value().numel()), value), view.value().shape());
        if (slot.accumulate) {
          add_into(graph.ctx(), all, slot.tensor);
        } else {
          slot.tensor.copy_from(graph.ctx(), all);
        }
      }));
    }
  }
  g.backward(roots);
  const Floats both = input.grad().to_floats(cpu());
  run.grad.assign(both.begin(), both.begin() + columns);
  EXPECT_EQ(run.grad, Floats(both.begin() + columns, both.end()));
  return run;
}

// Nodes run backward: the last view contributes first.
TEST(Graph, ViewsThatPartitionTheirParentAreWritten) {
  for (const bool leaf : {true, false}) {
    const ViewRun run = run_views(6, {{0, 2}, {2, 5}, {5, 6}}, {1, 1, 1}, leaf);
    EXPECT_EQ(run.accumulate, (std::vector<bool>{false, false, false}));
    EXPECT_EQ(run.grad, (Floats{1, 1, 10, 10, 10, 100}));
    const ViewRun twice = run_views(6, {{0, 2}, {2, 5}, {5, 6}}, {1, 2, 1}, leaf);
    EXPECT_EQ(twice.accumulate, (std::vector<bool>{false, false, true, false}));
    EXPECT_EQ(twice.grad, (Floats{1, 1, 20, 20, 20, 100}));
  }
}

TEST(Graph, ColumnsWithoutContributionBecomeZero) {
  for (const bool leaf : {true, false}) {
    const ViewRun gap = run_views(7, {{1, 2}, {4, 6}}, {1, 1}, leaf);
    EXPECT_EQ(gap.accumulate, (std::vector<bool>{false, false}));
    EXPECT_EQ(gap.grad, (Floats{0, 1, 0, 0, 10, 10, 0}));
    const ViewRun unused = run_views(6, {{0, 2}, {2, 5}, {5, 6}}, {1, 0, 1}, leaf);
    EXPECT_EQ(unused.grad, (Floats{1, 1, 0, 0, 0, 100}));
  }
}

TEST(Graph, OverlappingViewsAccumulate) {
  for (const bool leaf : {true, false}) {
    const ViewRun partly = run_views(6, {{0, 4}, {3, 6}}, {1, 1}, leaf);
    EXPECT_EQ(partly.accumulate, (std::vector<bool>{false, true}));
    EXPECT_EQ(partly.grad, (Floats{1, 1, 1, 11, 10, 10}));
    const ViewRun around = run_views(6, {{0, 6}, {1, 2}, {3, 4}}, {1, 1, 1}, leaf);
    EXPECT_EQ(around.accumulate, (std::vector<bool>{false, false, true}));
    EXPECT_EQ(around.grad, (Floats{1, 11, 1, 101, 1, 1}));
    const ViewRun within = run_views(6, {{1, 2}, {0, 6}}, {1, 1}, leaf);
    EXPECT_EQ(within.accumulate, (std::vector<bool>{false, true}));
    EXPECT_EQ(within.grad, (Floats{10, 11, 10, 10, 10, 10}));
  }
}

// Parts of one projection: gradients go straight to the parent's columns, what no view covers is 0, a view of a view
// and overlapping views work.
TEST(Graph, ColumnViews) {
  Graph g(cpu());
  std::vector<int> order;
  const Var x = g.input(Tensor::from(cpu(), Floats{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, {2, 5}));
  const Var p = scale(g, x, 1, 0, &order);
  const Var left = g.slice_cols(p, 0, 2);
  const Var middle = g.slice_cols(p, 1, 4);
  const Var inner = g.slice_cols(middle, 1, 3);  // columns 2 and 3 of p
  EXPECT_EQ(inner.value().to_floats(cpu()), (Floats{3, 4, 8, 9}));
  const Var y = add(g, {left, inner});
  const Var z = add(g, {y, g.slice_cols(middle, 0, 2)});
  g.backward(z, Tensor::from(cpu(), Floats{1, 10, 100, 1000}, {2, 2}));
  // left: columns 0, 1; inner: columns 2, 3; the last one: columns 1, 2.
  EXPECT_EQ(x.grad().to_floats(cpu()), (Floats{1, 11, 11, 10, 0, 100, 1100, 1100, 1000, 0}));
}

// A view and the whole value used side by side: whichever contribution comes first, both count.
TEST(Graph, ViewBesideItsParent) {
  for (const bool view_first : {false, true}) {
    Graph g(cpu());
    std::vector<int> order;
    const Var x = g.input(Tensor::from(cpu(), Floats{1, 2, 3}, {1, 3}));
    std::vector<Var> roots;
    if (view_first) roots.push_back(sum_term(g, g.slice_cols(x, 1, 2), 10.0F));
    roots.push_back(sum_term(g, x, 1.0F));
    if (!view_first) roots.push_back(sum_term(g, g.slice_cols(x, 1, 2), 10.0F));
    g.backward(roots);
    EXPECT_EQ(x.grad().to_floats(cpu()), (Floats{1, 11, 1}));
  }
}

// A small block: y = x + fc2(gelu(fc1(norm(x)))), fc1 used a second time.
std::vector<OpInput> block_inputs() {
  return {random_parameter("norm.weight", {24}, 0.2, 1.0), random_parameter("norm.bias", {24}),
          random_parameter("fc1.weight", {24, 24}, 0.2),   random_parameter("fc1.bias", {24}),
          random_parameter("fc2.weight", {24, 24}, 0.2),   random_parameter("fc2.bias", {24})};
}

Var block(Graph& g, const Var& x, const std::map<std::string, Weight>& w) {
  const Var n = layer_norm(g, x, w.at("norm.weight"), w.at("norm.bias"), 1e-5);
  const Var h = activation(g, linear(g, n, w.at("fc1.weight"), w.at("fc1.bias")), Activation::gelu_tanh);
  const Var again = linear(g, h, w.at("fc1.weight"), w.at("fc1.bias"));
  return add(g, {x, linear(g, again, w.at("fc2.weight"), w.at("fc2.bias"))});
}

struct BlockRun {
  Floats y, dx, grads;
  std::vector<std::string> hooks;
  bool operator==(const BlockRun&) const = default;
};

BlockRun run_blocks(Context& ctx, DType dtype, bool recompute, bool input_needs_grad = true) {
  const std::vector<OpInput> inputs = block_inputs();
  const TestParameters parameters(ctx, dtype, inputs);
  const std::map<std::string, Weight> weights = parameters.weights();
  BlockRun run;
  Graph g(ctx);
  g.set_parameter_hook([&](Parameter& p) { run.hooks.push_back(p.name); });
  const Tensor x_value = Tensor::from_floats(ctx, convert<float>(random_values("block x", 65 * 24)), {65, 24}, dtype);
  const Var x = input_needs_grad ? g.input(x_value) : g.constant(x_value);
  Var h = x;
  for (int layer = 0; layer < 2; ++layer) {
    h = recompute
            ? g.recompute({h}, [&](Graph& graph, const std::vector<Var>& in) { return block(graph, in[0], weights); })
            : block(g, h, weights);
  }
  run.y = h.value().to_floats(ctx);
  g.backward(h, Tensor::from_floats(ctx, convert<float>(random_values("block dy", 65 * 24)), {65, 24}, dtype));
  if (input_needs_grad) run.dx = x.grad().to_floats(ctx);
  for (const auto& p : parameters.store.parameters()) {
    EXPECT_EQ(p->pending_uses, 0) << p->name;
    const Floats grad = p->grad.to_floats(ctx);
    run.grads.insert(run.grads.end(), grad.begin(), grad.end());
  }
  return run;
}

void check_recompute(Context& ctx, DType dtype) {
  const BlockRun plain = run_blocks(ctx, dtype, false);
  const BlockRun recomputed = run_blocks(ctx, dtype, true);
  EXPECT_EQ(plain.y, recomputed.y);
  EXPECT_EQ(plain.dx, recomputed.dx);
  EXPECT_EQ(plain.grads, recomputed.grads);
  for (const BlockRun& run : {plain, recomputed}) {
    std::vector<std::string> names = run.hooks;
    std::sort(names.begin(), names.end());
    EXPECT_EQ(names, (std::vector<std::string>{"fc1.bias", "fc1.weight", "fc2.bias", "fc2.weight", "norm.bias",
                                               "norm.weight"}))
        << "every hook once";
  }
  const BlockRun frozen_input = run_blocks(ctx, dtype, true, false);
  EXPECT_EQ(frozen_input.grads, plain.grads);
  EXPECT_EQ(frozen_input.dx, Floats());
}

TEST(Graph, RecomputeGivesTheSameBits) { check_recompute(cpu(), DType::f32); }
TEST(GraphCuda, RecomputeGivesTheSameBits) {
  const auto ctx = new_cuda();
  check_recompute(*ctx, DType::f32);
  check_recompute(*ctx, DType::bf16);
}

// A block beside another use of its input, which is kept or made again: the gradients are the same sums.
enum class Inside { recorded, recomputed, remade };

std::pair<Floats, Floats> run_inside(Context& ctx, DType dtype, Inside how) {
  const std::vector<OpInput> inputs = block_inputs();
  const TestParameters parameters(ctx, dtype, inputs);
  const std::map<std::string, Weight> weights = parameters.weights();
  Graph g(ctx);
  const Var x = g.input(Tensor::from_floats(ctx, convert<float>(random_values("inside x", 65 * 24)), {65, 24}, dtype));
  const Var h = add(g, {x, x});
  const auto inside = [&](Graph& graph, const std::vector<Var>& in) { return block(graph, in[0], weights); };
  Graph::Remake remake;
  if (how == Inside::remade) {
    remake = [value = x.value()](Context& c) {
      Graph quiet(c, false);
      const Var again = quiet.constant(value);
      return std::vector<Tensor>{add(quiet, {again, again}).value()};
    };
  }
  const Var y = add(g, {h, how == Inside::recorded ? inside(g, {h}) : g.recompute({h}, inside, remake), h});
  g.backward(y, Tensor::from_floats(ctx, convert<float>(random_values("inside dy", 65 * 24)), {65, 24}, dtype));
  Floats grads;
  for (const auto& p : parameters.store.parameters()) {
    EXPECT_EQ(p->pending_uses, 0) << p->name;
    const Floats grad = p->grad.to_floats(ctx);
    grads.insert(grads.end(), grad.begin(), grad.end());
  }
  return {x.grad().to_floats(ctx), grads};
}

void check_inside(Context& ctx, DType dtype) {
  const auto plain = run_inside(ctx, dtype, Inside::recorded);
  EXPECT_EQ(plain, run_inside(ctx, dtype, Inside::recomputed));
  EXPECT_EQ(plain, run_inside(ctx, dtype, Inside::remade));
}

TEST(Graph, RecomputeBesideOtherUsesOfItsInput) { check_inside(cpu(), DType::f32); }
TEST(GraphCuda, RecomputeBesideOtherUsesOfItsInput) {
  const auto ctx = new_cuda();
  check_inside(*ctx, DType::f32);
  check_inside(*ctx, DType::bf16);
}

// Less memory is the point: at the end of the forward pass the inside of the blocks is gone.
TEST(Graph, RecomputeKeepsOnlyBlockOutputs) {
  const auto bytes_after_forward = [](bool recompute) {
    const auto ctx = make_cpu_context(0);
    const std::vector<OpInput> inputs = block_inputs();
    const TestParameters parameters(*ctx, DType::f32, inputs);
    const std::map<std::string, Weight> weights = parameters.weights();
    const int64_t before = ctx->allocator()->stats().current;
    Graph g(*ctx);
    Var h = g.input(Tensor::zeros(*ctx, {512, 24}, DType::f32));
    for (int layer = 0; layer < 4; ++layer) {
      h = recompute
              ? g.recompute({h}, [&](Graph& graph, const std::vector<Var>& in) { return block(graph, in[0], weights); })
              : block(g, h, weights);
    }
    return ctx->allocator()->stats().current - before;
  };
  const int64_t rows = 512 * 24 * 4;
  EXPECT_LE(bytes_after_forward(true), 5 * rows + 8192);
  EXPECT_GE(bytes_after_forward(false), 4 * 5 * rows);
}

// The hook fires after the last use's backward, when the gradient is complete, also for a use whose output was unused.
TEST(Graph, HookFiresOnceAfterTheLastUse) {
  ParameterStore store;
  store.declare("w", {2, 2});
  store.allocate(cpu(), DType::f32);
  Parameter* p = store.find("w");
  const Weight w{p->value, p};
  Graph g(cpu());
  int fired = 0;
  Floats grad_at_hook;
  g.set_parameter_hook([&](Parameter& parameter) {
    ++fired;
    grad_at_hook = parameter.grad.to_floats(cpu());
  });
  const Var x = g.constant(row({1, 2}));
  const Var a = linear(g, x, w, {});
  const Var b = linear(g, x, w, {});
  linear(g, x, w, {});
  EXPECT_EQ(p->pending_uses, 3);
  g.backward(add(g, {a, b}), row({1, 1}));
  EXPECT_EQ(fired, 1);
  EXPECT_EQ(grad_at_hook, (Floats{2, 4, 2, 4}));
  EXPECT_EQ(p->pending_uses, 0);
}

TEST(Graph, Errors) {
  Graph g(cpu());
  const Var c = g.constant(row({1}));
  EXPECT_THROW(g.grad_slot(c), Error);
  const Var x = g.input(row({1, 2}));
  try {
    g.add_grad(x, row({1, 2, 3}));
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "[graph] gradient of [1, 2]: found [1, 3]");
  }
}

}  // namespace
}  // namespace matvlm::testing
