// One description of an op case, three checks of it: CPU float against double, backward in double against the complex
// step, and the op's graph node (values, gradients, accumulation, column views) on a device against the double oracle.
//
// An op case is a struct with
//   std::string name() const;
//   std::vector<OpInput> inputs() const;              // activations and parameters, with their values
//   Shape output() const;
//   template <class T> std::vector<T> forward(const Values<T>&) const;                      // the raw CPU op
//   Values<double> backward(const Values<double>&, const std::vector<double>& dy) const;    // likewise, all gradients
//   Var build(Graph&, const std::map<std::string, Var>&, const std::map<std::string, Weight>&) const;
#pragma once

#include <map>
#include <string>
#include <vector>

#include "autograd/graph.h"
#include "autograd/ops/add.h"
#include "tests/support/op_check.h"

namespace matvlm::testing {

struct OpInput {
  std::string name;
  Shape shape;
  std::vector<double> values;
  bool parameter = false;
  bool differentiable = true;
};

template <class T>
using Values = std::map<std::string, std::vector<T>>;

inline OpInput random_input(const std::string& name, const Shape& shape, double scale = 1.0, double shift = 0.0) {
  OpInput input{name, shape, random_values(name + shape_string(shape), shape_numel(shape), scale)};
  for (double& v : input.values) v += shift;
  return input;
}

inline OpInput random_parameter(const std::string& name, const Shape& shape, double scale = 1.0, double shift = 0.0) {
  OpInput input = random_input(name, shape, scale, shift);
  input.parameter = true;
  return input;
}

// Trained weights with given values; their gradients start at kGradStart, because ops must add to them.
class TestParameters {
 public:
  static constexpr float kGradStart = 0.25F;
  TestParameters(Context& ctx, DType dtype, const std::vector<OpInput>& inputs) {
    for (const OpInput& input : inputs) {
      if (input.parameter) store.declare(input.name, input.shape);
    }
    if (store.empty()) return;
    store.allocate(ctx, dtype);
    for (const OpInput& input : inputs) {
      if (!input.parameter) continue;
      const Parameter& p = *store.find(input.name);
      const auto values = convert<float>(input.values);
      p.master.copy_from_floats(ctx, values);
      const std::vector<float> start(values.size(), kGradStart);
      ctx.to_device(p.grad.raw(), start.data(), p.numel * 4);
    }
    store.refresh_compute(ctx);
  }
  std::map<std::string, Weight> weights() const {
    std::map<std::string, Weight> out;
    for (const auto& p : store.parameters()) out[p->name] = {p->value, p.get()};
    return out;
  }
  ParameterStore store;
};

// contiguous: the inputs as they are. views: every input is a column range of a wider one, whose other columns must get
// gradient 0. twice: the op runs twice on the same inputs and the results are added, so all gradients accumulate.
enum class Use { contiguous, views, twice };

struct OpResult {
  std::vector<double> y;
  Values<double> grads;
};

// Values in columns [kPad, kPad + cols) of a wider tensor whose other columns are NaN.
constexpr int64_t kPad = 3;
inline Tensor widened(Context& ctx, const OpInput& input, DType dtype) {
  const int64_t cols = input.shape.back();
  const int64_t rows = static_cast<int64_t>(input.values.size()) / cols;
  Shape shape = input.shape;
  shape.back() = cols + 2 * kPad;
  std::vector<float> wide(static_cast<size_t>(rows * shape.back()), std::numeric_limits<float>::quiet_NaN());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      wide[static_cast<size_t>(r * shape.back() + kPad + c)] =
          static_cast<float>(input.values[static_cast<size_t>(r * cols + c)]);
    }
  }
  return Tensor::from_floats(ctx, wide, shape, dtype);
}

// Gradient of the inner columns; the others must be 0.
inline std::vector<double> inner_grad(Context& ctx, const Tensor& grad, const std::string& what) {
  const int64_t wide = grad.cols();
  const std::vector<float> values = grad.to_floats(ctx);
  std::vector<double> inner;
  for (size_t i = 0; i < values.size(); ++i) {
    const int64_t c = static_cast<int64_t>(i) % wide;
    if (c >= kPad && c < wide - kPad) {
      inner.push_back(static_cast<double>(values[i]));
    } else {
      EXPECT_EQ(values[i], 0.0F) << what << ": gradient outside the view";
    }
  }
  return inner;
}

template <class Op>
OpResult run_graph(const Op& op, Context& ctx, DType dtype, const std::vector<double>& dy, Use use) {
  const std::vector<OpInput> inputs = op.inputs();
  const TestParameters parameters(ctx, dtype, inputs);
  Graph g(ctx);
  std::map<std::string, Var> leaves;
  std::map<std::string, Var> vars;
  for (const OpInput& input : inputs) {
    if (input.parameter) continue;
    const bool view = use == Use::views && input.differentiable;
    Tensor value =
        view ? widened(ctx, input, dtype) : Tensor::from_floats(ctx, convert<float>(input.values), input.shape, dtype);
    Var leaf = input.differentiable ? g.input(std::move(value)) : g.constant(std::move(value));
    leaves[input.name] = leaf;
    vars[input.name] = view ? g.slice_cols(leaf, kPad, kPad + input.shape.back()) : leaf;
  }
  Var y = op.build(g, vars, parameters.weights());
  EXPECT_EQ(y.value().shape(), op.output()) << op.name();
  EXPECT_TRUE(y.value().contiguous()) << op.name();
  OpResult result;
  result.y = convert<double>(y.value().to_floats(ctx));
  if (use == Use::twice) y = add(g, {y, op.build(g, vars, parameters.weights())});
  g.backward(y, Tensor::from_floats(ctx, convert<float>(dy), op.output(), dtype));
  for (const auto& [name, leaf] : leaves) {
    if (!leaf.requires_grad()) continue;
    result.grads[name] = use == Use::views ? inner_grad(ctx, leaf.grad(), op.name() + " " + name)
                                           : convert<double>(leaf.grad().to_floats(ctx));
  }
  for (const auto& p : parameters.store.parameters()) result.grads[p->name] = convert<double>(p->grad.to_floats(ctx));
  return result;
}

template <class Op>
Values<double> double_values(const Op& op) {
  Values<double> out;
  for (const OpInput& input : op.inputs()) out[input.name] = input.values;
  return out;
}

// The op as it sees inputs that were rounded to `dtype`, in double.
template <class Op>
OpResult oracle(const Op& op, DType dtype, const std::vector<double>& dy) {
  const auto rounded = [&](const std::vector<double>& v) {
    return dtype == DType::bf16 ? round_bf16(v) : convert<double>(convert<float>(v));
  };
  Values<double> values = double_values(op);
  for (auto& [name, v] : values) v = rounded(v);
  return {op.template forward<double>(values), op.backward(values, rounded(dy))};
}

// `slack`: relative, what float32 sums of this op's lengths may be off.
template <class Op>
void check_graph(const Op& op, Context& ctx, DType dtype, double slack) {
  const std::vector<double> dy = random_values(op.name() + "dy", shape_numel(op.output()));
  const OpResult exact = oracle(op, dtype, dy);
  for (const Use use : {Use::contiguous, Use::views, Use::twice}) {
    const OpResult found = run_graph(op, ctx, dtype, dy, use);
    const std::string what =
        cat(op.name(), " on ", device_name(ctx.device()), " ", dtype_name(dtype), " use ", static_cast<int>(use));
    expect_within_rounding(found.y, exact.y, dtype, what + ": y", slack);
    for (const OpInput& input : op.inputs()) {
      if (!input.parameter && !input.differentiable) continue;
      ASSERT_TRUE(found.grads.count(input.name) == 1) << what << ": no gradient of " << input.name;
      std::vector<double> expected = exact.grads.at(input.name);
      for (double& v : expected) {
        v = (use == Use::twice ? 2 : 1) * v + (input.parameter ? double{TestParameters::kGradStart} : 0.0);
      }
      expect_within_rounding(found.grads.at(input.name), expected, input.parameter ? DType::f32 : dtype,
                             what + ": gradient of " + input.name, slack);
    }
  }
}

// <gradient, d> against the complex step along a random direction d of one input at a time.
template <class Op>
void check_complex_step(const Op& op) {
  using Complex = std::complex<double>;
  const Values<double> x = double_values(op);
  const std::vector<double> dy = random_values(op.name() + "dy", shape_numel(op.output()));
  const Values<double> grads = op.backward(x, dy);
  for (const OpInput& input : op.inputs()) {
    if (!input.differentiable) continue;
    const std::vector<double> d = random_values(input.name + "direction", static_cast<int64_t>(input.values.size()));
    const auto loss = [&](const std::vector<Complex>& z) {
      Values<Complex> values;
      for (const auto& [name, v] : x) values[name] = std::vector<Complex>(v.begin(), v.end());
      values[input.name] = z;
      const std::vector<Complex> y = op.template forward<Complex>(values);
      Complex sum = 0;
      for (size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
      return sum;
    };
    double found = 0;
    double scale = 0;
    const std::vector<double>& grad = grads.at(input.name);
    ASSERT_EQ(grad.size(), d.size()) << op.name();
    for (size_t i = 0; i < d.size(); ++i) {
      found += grad[i] * d[i];
      scale += std::fabs(grad[i] * d[i]);
    }
    EXPECT_NEAR(found, complex_step(loss, input.values, d), 1e-12 * scale) << op.name() << ": d/d" << input.name;
  }
}

template <class Op>
void check_on_cpu(const Op& op, double slack = 1e-6) {
  SCOPED_TRACE(op.name());
  const Values<double> x = double_values(op);
  Values<float> single;
  Values<double> rounded;
  for (const auto& [name, v] : x) {
    single[name] = convert<float>(v);
    rounded[name] = convert<double>(single[name]);
  }
  expect_within_rounding(op.template forward<float>(single), op.template forward<double>(rounded), DType::f32,
                         op.name() + ": float against double", slack);
  check_complex_step(op);
  check_graph(op, cpu(), DType::f32, slack);
}

// Against the oracle in f32 and bf16, and the same bits twice.
template <class Op>
void check_on_cuda(const Op& op, Context& ctx, double slack_f32 = 1e-6, double slack_bf16 = 1e-5) {
  SCOPED_TRACE(op.name());
  check_graph(op, ctx, DType::f32, slack_f32);
  check_graph(op, ctx, DType::bf16, slack_bf16);
  const std::vector<double> dy = random_values(op.name() + "dy", shape_numel(op.output()));
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const OpResult first = run_graph(op, ctx, dtype, dy, Use::views);
    const OpResult second = run_graph(op, ctx, dtype, dy, Use::views);
    EXPECT_EQ(first.y, second.y) << op.name();
    EXPECT_EQ(first.grads, second.grads) << op.name();
  }
}

}  // namespace matvlm::testing
