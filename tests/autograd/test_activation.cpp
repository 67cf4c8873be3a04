// GELU in both forms, SiLU, SwiGLU.
#include "autograd/ops/activation.h"
#include "autograd/ops/activation_cpu.h"
#include "tests/support/op_cases.h"

namespace matvlm::testing {
namespace {

struct ActivationCase {
  Activation kind;
  int64_t rows, cols;
  std::string name() const { return cat("activation ", static_cast<int>(kind), " ", rows, "x", cols); }
  std::vector<OpInput> inputs() const { return {random_input("x", {rows, cols}, 3.0)}; }
  Shape output() const { return {rows, cols}; }
  template <class T>
  std::vector<T> forward(const Values<T>& in) const {
    Guarded<T> y(rows * cols);
    activation_forward_cpu<T>({.rows = rows,
                               .cols = cols,
                               .kind = kind,
                               .x = in.at("x").data(),
                               .x_stride = cols,
                               .y = y.data(),
                               .y_stride = cols});
    y.check("y");
    return y.values();
  }
  Values<double> backward(const Values<double>& in, const std::vector<double>& dy) const {
    Guarded<double> dx(rows * cols);
    activation_backward_cpu<double>({.rows = rows,
                                     .cols = cols,
                                     .kind = kind,
                                     .dy = dy.data(),
                                     .dy_stride = cols,
                                     .x = in.at("x").data(),
                                     .x_stride = cols,
                                     .dx = dx.data(),
                                     .dx_stride = cols});
    dx.check("dx");
    return {{"x", dx.values()}};
  }
  Var build(Graph& g, const std::map<std::string, Var>& x, const std::map<std::string, Weight>&) const {
    return activation(g, x.at("x"), kind);
  }
};

struct SwigluCase {
  int64_t rows, cols;
  std::string name() const { return cat("swiglu ", rows, "x", cols); }
  std::vector<OpInput> inputs() const {
    return {random_input("gate", {rows, cols}, 3.0), random_input("up", {rows, cols})};
  }
  Shape output() const { return {rows, cols}; }
  template <class T>
  std::vector<T> forward(const Values<T>& in) const {
    Guarded<T> y(rows * cols);
    swiglu_forward_cpu<T>({.rows = rows,
                           .cols = cols,
                           .gate = in.at("gate").data(),
                           .gate_stride = cols,
                           .up = in.at("up").data(),
                           .up_stride = cols,
                           .y = y.data(),
                           .y_stride = cols});
    y.check("y");
    return y.values();
  }
  Values<double> backward(const Values<double>& in, const std::vector<double>& dy) const {
    Guarded<double> dgate(rows * cols), dup(rows * cols);
    swiglu_backward_cpu<double>({.rows = rows,
                                 .cols = cols,
                                 .dy = dy.data(),
                                 .dy_stride = cols,
                                 .gate = in.at("gate").data(),
                                 .gate_stride = cols,
                                 .up = in.at("up").data(),
                                 .up_stride = cols,
                                 .dgate = dgate.data(),
                                 .dgate_stride = cols,
                                 .dup = dup.data(),
                                 .dup_stride = cols});
    dgate.check("dgate");
    dup.check("dup");
    return {{"gate", dgate.values()}, {"up", dup.values()}};
  }
  Var build(Graph& g, const std::map<std::string, Var>& x, const std::map<std::string, Weight>&) const {
    return swiglu(g, x.at("gate"), x.at("up"));
  }
};

const std::vector<std::pair<int64_t, int64_t>> kShapes = {{1, 20},   {2, 48},   {63, 72},  {64, 80},
                                                          {65, 144}, {300, 33}, {7, 1151}, {129, 4304}};
constexpr Activation kKinds[] = {Activation::gelu_tanh, Activation::gelu_erf, Activation::silu};

TEST(Activations, AgainstDoubleAndComplexStep) {
  for (const auto& [rows, cols] : kShapes) {
    for (const Activation kind : kKinds) check_on_cpu(ActivationCase{kind, rows, cols});
    check_on_cpu(SwigluCase{rows, cols});
  }
}

TEST(ActivationsCuda, AgainstOracle) {
  const auto ctx = new_cuda();
  for (const auto& [rows, cols] : kShapes) {
    for (const Activation kind : kKinds) check_on_cuda(ActivationCase{kind, rows, cols}, *ctx);
    check_on_cuda(SwigluCase{rows, cols}, *ctx);
  }
}

// Largest error over a fine grid from one end to the other, relative to max(|f|, 1): the fast float versions against
// the functions of the definition in double. 2e-7 is under two float roundings.
TEST(Activations, WholeRange) {
  const auto definition = [](Activation kind, double x) {
    switch (kind) {
      case Activation::gelu_tanh:
        return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
      case Activation::gelu_erf:
        return 0.5 * x * std::erfc(-x / std::numbers::sqrt2);
      default:
        return x / (1 + std::exp(-x));
    }
  };
  const int64_t n = 200001;
  std::vector<float> x(static_cast<size_t>(n));
  for (size_t i = 0; i < x.size(); ++i) x[i] = -100.0F + 0.001F * static_cast<float>(i);
  std::vector<float> y(x.size());
  for (const Activation kind : kKinds) {
    activation_forward_cpu<float>(
        {.rows = 1, .cols = n, .kind = kind, .x = x.data(), .x_stride = n, .y = y.data(), .y_stride = n});
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double exact = definition(kind, static_cast<double>(x[i]));
      worst = std::max(worst, std::fabs(static_cast<double>(y[i]) - exact) / std::max(1.0, std::fabs(exact)));
    }
    EXPECT_LE(worst, 2e-7) << static_cast<int>(kind);
  }
}

TEST(Activations, InfinitiesAndNan) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {inf, 1e4F, -1e4F, std::nanf("")};
  for (const Activation kind : kKinds) {
    std::vector<float> y(4);
    activation_forward_cpu<float>(
        {.rows = 1, .cols = 4, .kind = kind, .x = x.data(), .x_stride = 4, .y = y.data(), .y_stride = 4});
    EXPECT_EQ(y[0], inf);
    EXPECT_EQ(y[1], 1e4F);
    EXPECT_NEAR(y[2], 0.0F, 1e-30F);
    EXPECT_TRUE(std::isnan(y[3]));
  }
}

}  // namespace
}  // namespace matvlm::testing
