// Layer and RMS normalisation.
#include "autograd/ops/layer_norm.h"
#include "autograd/ops/layer_norm_cpu.h"
#include "autograd/ops/rms_norm.h"
#include "autograd/ops/rms_norm_cpu.h"
#include "tests/support/op_cases.h"

namespace matvlm::testing {
namespace {

struct LayerNormCase {
  int64_t rows, cols;
  double eps = 1e-5;
  std::string name() const { return cat("layer_norm ", rows, "x", cols); }
  std::vector<OpInput> inputs() const {
    return {random_input("x", {rows, cols}, 2.0, 0.5), random_parameter("w", {cols}, 0.3, 1.0),
            random_parameter("b", {cols})};
  }
  Shape output() const { return {rows, cols}; }
  template <class T>
  std::vector<T> forward(const Values<T>& in) const {
    Guarded<T> y(rows * cols), mean(rows), inv_std(rows);
    layer_norm_forward_cpu<T>({.rows = rows,
                               .cols = cols,
                               .x = in.at("x").data(),
                               .x_stride = cols,
                               .w = in.at("w").data(),
                               .b = in.at("b").data(),
                               .eps = eps,
                               .y = y.data(),
                               .y_stride = cols,
                               .mean = mean.data(),
                               .inv_std = inv_std.data()});
    y.check("y");
    mean.check("mean");
    inv_std.check("inv_std");
    return y.values();
  }
  Values<double> backward(const Values<double>& in, const std::vector<double>& dy) const {
    std::vector<double> y(dy.size()), mean(static_cast<size_t>(rows)), inv_std(mean), dw(static_cast<size_t>(cols)),
        db(dw);
    layer_norm_forward_cpu<double>({.rows = rows,
                                    .cols = cols,
                                    .x = in.at("x").data(),
                                    .x_stride = cols,
                                    .w = in.at("w").data(),
                                    .b = in.at("b").data(),
                                    .eps = eps,
                                    .y = y.data(),
                                    .y_stride = cols,
                                    .mean = mean.data(),
                                    .inv_std = inv_std.data()});
    Guarded<double> dx(rows * cols);
    layer_norm_backward_cpu<double>({.rows = rows,
                                     .cols = cols,
                                     .dy = dy.data(),
                                     .dy_stride = cols,
                                     .x = in.at("x").data(),
                                     .x_stride = cols,
                                     .w = in.at("w").data(),
                                     .mean = mean.data(),
                                     .inv_std = inv_std.data(),
                                     .dx = dx.data(),
                                     .dx_stride = cols,
                                     .dw = dw.data(),
                                     .db = db.data()});
    dx.check("dx");
    return {{"x", dx.values()}, {"w", dw}, {"b", db}};
  }
  Var build(Graph& g, const std::map<std::string, Var>& x, const std::map<std::string, Weight>& w) const {
    return layer_norm(g, x.at("x"), w.at("w"), w.at("b"), eps);
  }
};

struct RmsNormCase {
  int64_t rows, cols;
  double eps = 1e-5;
  std::string name() const { return cat("rms_norm ", rows, "x", cols); }
  std::vector<OpInput> inputs() const {
    return {random_input("x", {rows, cols}, 2.0, 0.5), random_parameter("w", {cols}, 0.3, 1.0)};
  }
  Shape output() const { return {rows, cols}; }
  template <class T>
  std::vector<T> forward(const Values<T>& in) const {
    Guarded<T> y(rows * cols), inv_rms(rows);
    rms_norm_forward_cpu<T>({.rows = rows,
                             .cols = cols,
                             .x = in.at("x").data(),
                             .x_stride = cols,
                             .w = in.at("w").data(),
                             .eps = eps,
                             .y = y.data(),
                             .y_stride = cols,
                             .inv_rms = inv_rms.data()});
    y.check("y");
    inv_rms.check("inv_rms");
    return y.values();
  }
  Values<double> backward(const Values<double>& in, const std::vector<double>& dy) const {
    std::vector<double> y(dy.size()), inv_rms(static_cast<size_t>(rows)), dw(static_cast<size_t>(cols));
    rms_norm_forward_cpu<double>({.rows = rows,
                                  .cols = cols,
                                  .x = in.at("x").data(),
                                  .x_stride = cols,
                                  .w = in.at("w").data(),
                                  .eps = eps,
                                  .y = y.data(),
                                  .y_stride = cols,
                                  .inv_rms = inv_rms.data()});
    Guarded<double> dx(rows * cols);
    rms_norm_backward_cpu<double>({.rows = rows,
                                   .cols = cols,
                                   .dy = dy.data(),
                                   .dy_stride = cols,
                                   .x = in.at("x").data(),
                                   .x_stride = cols,
                                   .w = in.at("w").data(),
                                   .inv_rms = inv_rms.data(),
                                   .dx = dx.data(),
                                   .dx_stride = cols,
                                   .dw = dw.data()});
    dx.check("dx");
    return {{"x", dx.values()}, {"w", dw}};
  }
  Var build(Graph& g, const std::map<std::string, Var>& x, const std::map<std::string, Weight>& w) const {
    return rms_norm(g, x.at("x"), w.at("w"), eps);
  }
};

// Rows and columns that break tiles, vectors and reduction chunks; rows of one to eight warps on the GPU.
const std::vector<std::pair<int64_t, int64_t>> kShapes = {{1, 20},   {2, 48},   {63, 72},    {64, 80},  {65, 144},
                                                          {300, 33}, {7, 1151}, {129, 2560}, {9, 1152}, {5, 4096}};
// Only on the GPU: eight warps of bf16, one pack too long for that in both types.
const std::vector<std::pair<int64_t, int64_t>> kLongShapes = {{3, 10240}, {3, 10248}};

TEST(LayerNorm, AgainstDoubleAndComplexStep) {
  for (const auto& [rows, cols] : kShapes) check_on_cpu(LayerNormCase{rows, cols});
}

TEST(RmsNorm, AgainstDoubleAndComplexStep) {
  for (const auto& [rows, cols] : kShapes) check_on_cpu(RmsNormCase{rows, cols});
}

// The variance is taken around the mean, not as a difference of squares: a large mean must not destroy it.
TEST(LayerNorm, LargeMean) {
  const int64_t cols = 72;
  std::vector<float> x(72);
  for (size_t i = 0; i < x.size(); ++i) x[i] = 4096.0F + (i % 2 == 0 ? 1.0F : -1.0F);
  Graph g(cpu(), false);
  const Weight w{Tensor::from(cpu(), std::vector<float>(72, 1.0F), {cols}), nullptr};
  const Weight b{Tensor::zeros(cpu(), {cols}, DType::f32), nullptr};
  const Var y = layer_norm(g, g.constant(Tensor::from(cpu(), x, {1, cols})), w, b, 0.0);
  const std::vector<float> found = y.value().to_floats(cpu());
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], i % 2 == 0 ? 1.0F : -1.0F, 1e-6F);
}

// A pending sum of `count` terms, normed: the bits of a sum and of the norm behind it, in values and gradients.
void check_pending_sum(Context& ctx, DType dtype, int64_t rows, int64_t cols, int count, bool centered) {
  const std::string name = cat(rows, "x", cols, " of ", count, " terms", centered ? ", centered" : "");
  const auto random = [&](const std::string& what, const Shape& shape) {
    const auto values = convert<float>(random_values(what, shape_numel(shape)));
    return Tensor::from_floats(ctx, values, shape, dtype);
  };
  const Weight w{random("w", {cols}), nullptr}, b{random("b", {cols}), nullptr};
  std::vector<Tensor> terms;
  for (int i = 0; i < count; ++i) {
    // A column view among them.
    const Tensor term = random(cat("term", i), {rows, i == 1 ? cols + 16 : cols});
    terms.push_back(i == 1 ? term.slice_cols(8, cols + 8) : term);
  }
  const Tensor dy = random("dy", {rows, cols});
  const Tensor expected = Tensor::empty(ctx, {rows, cols}, dtype);
  sum_into(ctx, terms, expected);
  Graph plain(ctx);
  const Var x = plain.input(expected);
  const Var normed = centered ? layer_norm(plain, x, w, b, 1e-5) : rms_norm(plain, x, w, 1e-5);
  plain.backward(normed, dy.clone(ctx));

  Graph g(ctx);
  const Var last = g.input(terms.back());
  const PendingSum pending = {terms, last};
  const SumAndNorm found = centered ? add_layer_norm(g, pending, w, b, 1e-5) : add_rms_norm(g, pending, w, 1e-5);
  EXPECT_EQ(found.sum.value().to_floats(ctx), expected.to_floats(ctx)) << name;
  EXPECT_EQ(found.normed.value().to_floats(ctx), normed.value().to_floats(ctx)) << name;
  g.backward(found.normed, dy.clone(ctx));
  EXPECT_EQ(last.grad().to_floats(ctx), x.grad().to_floats(ctx)) << name;
}

TEST(Norms, PendingSum) {
  for (const bool centered : {false, true}) {
    for (int count = 1; count <= 4; ++count) check_pending_sum(cpu(), DType::f32, 7, 33, count, centered);
  }
}

TEST(LayerNorm, WrongWeightShapeIsAnError) {
  Graph g(cpu());
  const Var x = g.constant(Tensor::zeros(cpu(), {2, 8}, DType::f32));
  const Weight w{Tensor::zeros(cpu(), {7}, DType::f32), nullptr};
  try {
    layer_norm(g, x, w, w, 1e-5);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "[layer_norm] weight: found [7], expected [8]");
  }
}

TEST(NormsCuda, PendingSum) {
  const auto ctx = new_cuda();
  for (const auto& shapes : {kShapes, kLongShapes}) {
    for (const auto& [rows, cols] : shapes) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        for (const bool centered : {false, true}) {
          for (int count = 1; count <= 4; ++count) check_pending_sum(*ctx, dtype, rows, cols, count, centered);
        }
      }
    }
  }
}

TEST(NormsCuda, AgainstOracle) {
  const auto ctx = new_cuda();
  for (const auto& [rows, cols] : kShapes) {
    check_on_cuda(LayerNormCase{rows, cols}, *ctx);
    check_on_cuda(RmsNormCase{rows, cols}, *ctx);
  }
  for (const auto& [rows, cols] : kLongShapes) {
    check_on_cuda(LayerNormCase{rows, cols}, *ctx);
    check_on_cuda(RmsNormCase{rows, cols}, *ctx);
  }
}

}  // namespace
}  // namespace matvlm::testing
