// The linear layer: three matrix products; the arithmetic is in core/gemm and core/gemm_fp8.
#include "autograd/ops/linear.h"

#include "autograd/fp8_weight.h"
#include "autograd/ops/add.h"
#include "autograd/ops/quantize.h"
#include "autograd/ops/reduce.h"
#include "core/gemm.h"
#include "core/gemm_fp8.h"
#include "core/gemm_fused.h"

namespace matvlm {
namespace {

// [N, K] of a weight of either kind.
const Shape& matrix_shape(const Weight& w) { return w.fp8 != nullptr ? w.fp8->shape() : w.value.shape(); }

void check_weight(const Tensor& x, const Weight& w) {
  const Shape& matrix = matrix_shape(w);
  check(matrix.size() == 2 && matrix[1] == x.cols(), "[linear] weight: found ", shape_string(matrix), ", expected [N, ",
        x.cols(), "]");
  if (w.fp8 == nullptr) check_dtype("linear", "weight", w.value, x.dtype());
}

void forward(Context& ctx, const Var& x, const Weight& w, const Tensor& bias, const Tensor& y) {
  if (w.fp8 == nullptr) return gemm_bias(ctx, x.value(), w.value, bias, y);
  gemm_fp8(ctx, quantized(ctx, x), w.fp8->rows(), bias, 0.0F, y, Fp8Sums::fast);
}

// dx = dy W, or dx += dy W. Gradients pass through many products one after the other, so their sums are the careful
// ones.
void backward_input(Context& ctx, const Tensor& dy, const Weight& w, bool accumulate, const Tensor& dx) {
  const float beta = accumulate ? 1.0F : 0.0F;
  if (w.fp8 == nullptr) return gemm(ctx, false, false, 1.0F, dy, w.value, beta, dx);
  const Fp8Matrix scaled = quantize_rows(ctx, dy, w.fp8->rows().scale);
  gemm_fp8(ctx, scaled, w.fp8->columns(ctx), {}, beta, dx, Fp8Sums::promoted);
}

// One product of a joined layer: its columns of the output.
struct Product {
  int64_t begin = 0, end = 0;
  Weight w;
  Tensor bias;
};

// The bias of all parts: in one piece already, or gathered.
Tensor joined_bias(Context& ctx, const JoinedLinear& layer) {
  if (layer.bias.defined() || !layer.parts[0].bias.defined()) return layer.bias;
  const Tensor bias = Tensor::empty(ctx, {layer.width()}, layer.parts[0].bias.value.dtype());
  int64_t begin = 0;
  for (const JoinedLinear::Part& part : layer.parts) {
    const int64_t end = begin + matrix_shape(part.w)[0];
    bias.slice_rows(begin, end).copy_from(ctx, part.bias.value);
    begin = end;
  }
  return bias;
}

// In backward, which needs no bias, without one.
std::vector<Product> products_of(const JoinedLinear& layer, const Tensor& bias = {}) {
  if (layer.is_one()) return {{0, layer.width(), {layer.w, nullptr, layer.fp8}, bias}};
  std::vector<Product> out;
  int64_t begin = 0;
  for (const JoinedLinear::Part& part : layer.parts) {
    const int64_t end = begin + matrix_shape(part.w)[0];
    out.push_back({begin, end, part.w, part.bias.value});
    begin = end;
  }
  return out;
}

void check_joined(const Tensor& x, const JoinedLinear& layer) {
  check(!layer.parts.empty(), "[linear] a joined layer without parts");
  for (const JoinedLinear::Part& part : layer.parts) {
    check_weight(x, part.w);
    check(part.bias.defined() == layer.parts[0].bias.defined(), "[linear] found a bias for some parts only");
  }
  if (layer.w.defined()) check_shape("linear", "joined weight", layer.w, {layer.width(), x.cols()});
  check(layer.fp8 == nullptr || layer.fp8->shape() == Shape{layer.width(), x.cols()},
        "[linear] joined weight in fp8: expected ", shape_string({layer.width(), x.cols()}));
}

void joined_backward(Graph& g, const Var& x, const JoinedLinear& layer, const Tensor& dy) {
  Context& ctx = g.ctx();
  int64_t begin = 0;
  for (const JoinedLinear::Part& part : layer.parts) {
    const int64_t end = begin + matrix_shape(part.w)[0];
    backward_weights(ctx, dy.slice_cols(begin, end), x.value(), part.w, part.bias);
    begin = end;
  }
  if (!x.requires_grad()) return;
  const Graph::GradSlot dx = g.grad_slot(x);
  bool accumulate = dx.accumulate;
  for (const Product& p : products_of(layer)) {
    backward_input(ctx, dy.slice_cols(p.begin, p.end), p.w, accumulate, dx.tensor);
    accumulate = true;
  }
}

}  // namespace

void linear_into(Context& ctx, const Tensor& x, const Weight& w, const Weight& bias, const Tensor& residual,
                 const Tensor& y) {
  if (residual.defined() && fused_residual(ctx, x, w.value, bias.value, residual, y)) return;
  gemm_bias(ctx, x, w.value, bias.value, y);
  if (residual.defined()) add_into(ctx, residual, y);
}

// The parameter's f32 gradient as a matrix or vector of the weight's shape.
void backward_weights(Context& ctx, const Tensor& dy, const Tensor& x, const Weight& w, const Weight& bias) {
  if (w.trainable()) gemm(ctx, true, false, 1.0F, dy, x, take_grad_factor(*w.param), w.param->grad);
  if (grad_to_add(ctx, bias) != nullptr) add_column_sums(ctx, dy, bias.param->grad);
}

int64_t JoinedLinear::width() const {
  int64_t n = 0;
  for (const Part& part : parts) n += matrix_shape(part.w)[0];
  return n;
}

Var linear_joined(Graph& g, const Var& x, const JoinedLinear& layer) {
  const Tensor& value = x.value();
  check_joined(value, layer);
  Shape shape = value.shape();
  shape.back() = layer.width();
  Tensor y = Tensor::empty(g.ctx(), std::move(shape), value.dtype());
  const Tensor bias = layer.is_one() ? joined_bias(g.ctx(), layer) : Tensor();
  for (const Product& p : products_of(layer, bias)) {
    forward(g.ctx(), x, p.w, p.bias, y.slice_cols(p.begin, p.end));
  }
  std::vector<Weight> weights;
  bool trained = false;
  for (const JoinedLinear::Part& part : layer.parts) {
    weights.push_back(part.w);
    weights.push_back(part.bias);
    trained = trained || part.w.trainable();
  }
  const Var kept = trained ? x : x.route();
  return g.node(y, {x}, weights,
                [x = kept, layer](Graph& graph, const Tensor& dy) { joined_backward(graph, x, layer, dy); });
}

Var linear(Graph& g, const Var& x, const Weight& w, const Weight& bias, const Var& residual,
           const Graph::Remake& input_again) {
  const Tensor& value = x.value();
  check_weight(value, w);
  Shape shape = value.shape();
  shape.back() = matrix_shape(w)[0];
  const Tensor& added_here = residual.value();
  if (added_here.defined()) check_shape("linear", "residual", added_here, shape);
  Tensor y = Tensor::empty(g.ctx(), std::move(shape), value.dtype());
  if (w.fp8 == nullptr) {
    linear_into(g.ctx(), value, w, bias, added_here, y);
  } else {
    forward(g.ctx(), x, w, bias.value, y);
    if (added_here.defined()) add_into(g.ctx(), added_here, y);
  }
  // A frozen weight's input is not needed again: most of what a student's frozen layers would keep.
  const Var kept = w.trainable() && !input_again ? x : x.route();
  const Var added = residual.route();
  return g.node(y, {x, residual}, {w, bias}, [x = kept, w, bias, added, input_again](Graph& graph, const Tensor& dy) {
    Context& ctx = graph.ctx();
    backward_weights(ctx, dy, w.trainable() && input_again ? input_again(ctx)[0] : x.value(), w, bias);
    if (x.requires_grad()) {
      const Graph::GradSlot dx = graph.grad_slot(x);
      backward_input(ctx, dy, w, dx.accumulate, dx.tensor);
    }
    if (added.requires_grad()) graph.add_grad(added, dy);  // last: the gradient itself may be moved there
  });
}

}  // namespace matvlm
