// Reverse-mode automatic differentiation on an explicit tape. A Var is a value, its gradient, and whether it needs one;
// nodes run in the reverse of their creation order: no recursion, and the same order on every rank.
//
// An op computes its output tensor and calls Graph::node() with inputs, weights and a closure that captures by name
// what backward needs. The closure gets the gradient of the output and hands gradients on with add_grad()/grad_slot();
// it adds parameter gradients into weight.param->grad itself. Where no input needs a gradient nothing is recorded, and
// a closure asks input.requires_grad() / weight.trainable() before it computes anything.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "autograd/parameter.h"
#include "core/fp8.h"
#include "core/tensor.h"

namespace matvlm {

class Var {
 public:
  Var();  // these in graph.cpp, for the compiler's time
  Var(const Var&);
  Var(Var&&) noexcept;
  Var& operator=(const Var&);
  Var& operator=(Var&&) noexcept;
  ~Var();
  bool defined() const { return impl_ != nullptr; }
  const Tensor& value() const { return value_; }
  bool requires_grad() const { return impl_ != nullptr && impl_->requires_grad; }
  // Gradient after backward() of a leaf made with Graph::input(); undefined when nothing contributed.
  const Tensor& grad() const { return impl_->grad; }
  // The same without its value, whose value() is an undefined tensor: for closures that only hand a gradient on, so
  // that the value is free after its last use in forward.
  Var route() const {
    Var v = *this;
    v.value_ = Tensor();
    v.fp8_ = nullptr;
    return v;
  }
  // The value in fp8, for quantized() of ops/quantize.h: undefined until an op asks for it, then shared by all copies
  // of this Var and held as long as its value is. Not of a route.
  Fp8Matrix& fp8() const { return *fp8_; }

 private:
  friend class Graph;
  struct Impl {
    Shape shape;
    DType dtype = DType::f32;
    Tensor grad;
    bool requires_grad = false;
    bool is_leaf = false;
    std::shared_ptr<Impl> parent;  // of a column view; never itself a view
    int64_t begin = 0, end = 0;    // its columns in the parent
    // Columns of `grad` that are still uninitialised, ascending: those of views that have not contributed yet and of no
    // view at all. Empty where grad is complete or undefined.
    std::vector<std::pair<int64_t, int64_t>> gaps;
  };
  std::shared_ptr<Impl> impl_;
  Tensor value_;
  std::shared_ptr<Fp8Matrix> fp8_;
};

class Graph {
 public:
  using Backward = std::function<void(Graph& graph, const Tensor& grad_output)>;
  using ParameterHook = std::function<void(Parameter& parameter)>;

  // recording = false: forward only (teacher, evaluation); nothing is kept.
  explicit Graph(Context& ctx, bool recording = true);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  Context& ctx() const { return ctx_; }
  bool recording() const { return recording_; }

  Var constant(Tensor value);
  Var input(Tensor value);  // a leaf that gets a gradient (also when not recording: then grad stays undefined)

  // Registers the output of an op.
  Var node(Tensor output, const std::vector<Var>& inputs, const std::vector<Weight>& weights, Backward backward);

  // Columns [begin, end) of x as a Var: a view, no copy. Its gradient is those columns of x's gradient: the first
  // contribution to columns is written there, later ones (of overlapping views, of x itself) are added, and what has
  // got none when the gradient is used becomes 0. Views that cover x without overlap thus cost nothing.
  Var slice_cols(const Var& x, int64_t begin, int64_t end);

  // A gradient buffer of v, shaped as v. accumulate = false: uninitialised, the caller must write every element;
  // true: the caller must add. dtype of the gradient is that of the value.
  struct GradSlot {
    Tensor tensor;
    bool accumulate = false;
  };
  GradSlot grad_slot(const Var& v);
  // Adds a contribution. The first one is moved in when it is contiguous (the caller must own it), later ones are
  // added.
  void add_grad(const Var& v, Tensor contribution);

  // Runs all nodes. Roots are loss terms: their closures must not read the incoming gradient, which is 1 by convention
  // and written nowhere (the weight of a term is given to its op). Frees closures and gradients on the way. Once per
  // graph.
  void backward(const std::vector<Var>& roots);
  // Backward from a gradient given for one output: what tests and recomputed blocks use.
  void backward(const Var& output, Tensor grad_output);

  // Called when the last recorded use of a parameter has run its backward.
  void set_parameter_hook(ParameterHook hook) { hook_ = std::move(hook); }

  // Activation recomputation: runs `block` without keeping its inside, and again when backward reaches its output.
  // `block` must be a function of its inputs and weights alone. Captures of `block` must outlive backward(). With
  // `remake` the inputs' values are not kept either, but made by it when they are needed.
  using Block = std::function<Var(Graph& graph, const std::vector<Var>& inputs)>;
  using Remake = std::function<std::vector<Tensor>(Context& ctx)>;
  Var recompute(const std::vector<Var>& inputs, const Block& block, const Remake& remake = {});

  int64_t size() const { return static_cast<int64_t>(nodes_.size()); }

 private:
  struct Node {
    std::shared_ptr<Var::Impl> output;
    std::vector<Weight> weights;
    Backward backward;
  };
  void run();
  // Columns [begin, end) of impl.grad, made ready for a contribution.
  GradSlot columns_slot(Var::Impl& impl, int64_t begin, int64_t end);
  // Writes zeros where nothing has contributed.
  void fill_gaps(Var::Impl& impl);
  static void run_again(Context& ctx, std::vector<Var> inputs, const Block& block, const Remake& remake,
                        const Tensor& grad_output);
  Context& ctx_;
  bool recording_;
  bool collecting_ = false;  // recompute's first pass: note which weights are used, keep no closures
  bool again_ = false;       // recompute's second pass: what it makes is used at once, so nothing inside is recomputed
  std::vector<Weight> collected_;
  std::vector<Node> nodes_;
  std::vector<std::shared_ptr<Var::Impl>> viewed_leaves_;  // whose gradient began with a view's
  ParameterHook hook_;
};

}  // namespace matvlm
