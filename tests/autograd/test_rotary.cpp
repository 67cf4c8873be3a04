// Rotary embedding: against its definition, float against double, backward against complex step, the node; CUDA.
#include <gtest/gtest.h>

#include <complex>
#include <ostream>

#include "autograd/ops/rotary.h"
#include "autograd/ops/rotary_cpu.h"
#include "tests/support/op_check.h"

namespace matvlm {
namespace {

using namespace matvlm::testing;
using Complex = std::complex<double>;

struct RotaryCase {
  std::string name;
  std::vector<int64_t> lengths;  // positions count from `start` in each sequence
  int64_t start;
  int64_t heads, head_dim, rotary_dims;
  double theta;

  std::vector<int32_t> positions() const {
    std::vector<int32_t> out;
    for (const int64_t n : lengths) {
      for (int64_t i = 0; i < n; ++i) out.push_back(static_cast<int32_t>(start + i));
    }
    return out;
  }
  int64_t tokens() const { return static_cast<int64_t>(positions().size()); }
  int64_t width() const { return heads * head_dim; }
};
std::ostream& operator<<(std::ostream& out, const RotaryCase& c) { return out << c.name; }

std::vector<RotaryCase> rotary_cases() {
  return {
      {"phi", {300}, 0, 2, 80, 32, 1e4},
      {"ragged, odd heads", {2, 65, 1, 64}, 0, 3, 72, 28, 1e4},
      {"whole head", {63, 257}, 0, 2, 64, 64, 5e5},
      {"narrow", {255, 256}, 0, 5, 20, 8, 1e4},
      {"one pair", {4}, 0, 1, 16, 2, 1e4},
      {"no rotary dims", {7}, 0, 3, 16, 0, 1e4},
      {"decode", {1, 1, 3}, 900, 2, 80, 32, 1e4},
      {"far", {10, 5}, 65530, 2, 80, 32, 1e4},
  };
}

class Rotary : public ::testing::TestWithParam<RotaryCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, Rotary, ::testing::ValuesIn(rotary_cases()));
class RotaryCuda : public ::testing::TestWithParam<RotaryCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, RotaryCuda, ::testing::ValuesIn(rotary_cases()));

template <class T>
std::vector<T> raw_rotary(const RotaryCase& c, const std::vector<T>& x, bool inverse) {
  const std::vector<int32_t> positions = c.positions();
  Guarded<T> y(static_cast<int64_t>(x.size()));
  Guarded<T> table(c.tokens() * c.rotary_dims);  // rows that no token uses stay NaN
  rotary_cpu(RotaryArgs<T>{c.tokens(), c.heads, c.head_dim, c.rotary_dims, c.theta, inverse, false, positions.data(),
                           x.data(), c.width(), y.data(), c.width()},
             table.data());
  y.check(c.name);
  return y.values();
}

// Turns pair i of head h of token t as complex numbers.
std::vector<double> direct_rotary(const RotaryCase& c, std::vector<double> x) {
  const std::vector<int32_t> positions = c.positions();
  const int64_t half = c.rotary_dims / 2;
  for (int64_t t = 0; t < c.tokens(); ++t) {
    for (int64_t h = 0; h < c.heads; ++h) {
      for (int64_t i = 0; i < half; ++i) {
        double& first = x[static_cast<size_t>(t * c.width() + h * c.head_dim + i)];
        double& second = x[static_cast<size_t>(t * c.width() + h * c.head_dim + i + half)];
        const double angle = positions[static_cast<size_t>(t)] *
                             std::pow(c.theta, -2.0 * static_cast<double>(i) / static_cast<double>(c.rotary_dims));
        const Complex turned = Complex(first, second) * std::polar(1.0, angle);
        first = turned.real();
        second = turned.imag();
      }
    }
  }
  return x;
}

std::vector<double> values_of(const RotaryCase& c, const char* name) {
  return random_values(c.name + name, c.tokens() * c.width());
}

// Value and gradient of the node on columns [width, 2 width) of a wider tensor.
struct NodeResult {
  std::vector<float> y, dx;
};
NodeResult node_rotary(Context& ctx, const RotaryCase& c, const std::vector<double>& x,
                       const std::vector<double>& grad_out, DType dtype) {
  const int64_t width = c.width();
  std::vector<float> wide(static_cast<size_t>(c.tokens() * 3 * width), 0.5F);
  for (int64_t t = 0; t < c.tokens(); ++t) {
    for (int64_t j = 0; j < width; ++j) {
      wide[static_cast<size_t>((t * 3 + 1) * width + j)] = static_cast<float>(x[static_cast<size_t>(t * width + j)]);
    }
  }
  Graph g(ctx);
  const Var whole = g.input(Tensor::from_floats(ctx, wide, {c.tokens(), 3 * width}, dtype));
  const Var y = rotary(g, g.slice_cols(whole, width, 2 * width), c.heads, c.head_dim, c.rotary_dims, c.theta,
                       Tensor::from(ctx, c.positions(), {c.tokens()}));
  NodeResult result;
  result.y = y.value().to_floats(ctx);
  g.backward(y, Tensor::from_floats(ctx, convert<float>(grad_out), {c.tokens(), width}, dtype));
  result.dx = whole.grad().slice_cols(width, 2 * width).to_floats(ctx);
  for (const float outside : whole.grad().slice_cols(0, width).to_floats(ctx)) EXPECT_EQ(outside, 0.0F);
  return result;
}

// Value and gradient of the rotation in place of the first columns of a tensor twice as wide, whose others stay.
NodeResult in_place_rotary(Context& ctx, const RotaryCase& c, const std::vector<double>& x,
                           const std::vector<double>& grad_out, DType dtype) {
  const int64_t width = c.width();
  std::vector<double> frequencies;
  for (int64_t i = 0; i < c.rotary_dims / 2; ++i) {
    frequencies.push_back(std::pow(c.theta, -2.0 * static_cast<double>(i) / static_cast<double>(c.rotary_dims)));
  }
  const auto wide = [&](const std::vector<double>& inner, float other) {
    std::vector<float> out(static_cast<size_t>(c.tokens() * 2 * width), other);
    for (int64_t t = 0; t < c.tokens(); ++t) {
      for (int64_t j = 0; j < width; ++j) {
        out[static_cast<size_t>(2 * t * width + j)] = static_cast<float>(inner[static_cast<size_t>(t * width + j)]);
      }
    }
    return Tensor::from_floats(ctx, out, {c.tokens(), 2 * width}, dtype);
  };
  Graph g(ctx);
  const Var whole = g.input(wide(x, 0.5F));
  const Var y =
      rotary_in_place(g, whole, c.heads, c.head_dim, frequencies, Tensor::from(ctx, c.positions(), {c.tokens()}));
  EXPECT_EQ(y.value().raw(), whole.value().raw());
  NodeResult result;
  result.y = y.value().slice_cols(0, width).to_floats(ctx);
  for (const float other : y.value().slice_cols(width, 2 * width).to_floats(ctx)) EXPECT_EQ(other, 0.5F);
  g.backward(y, wide(grad_out, 0.25F));
  result.dx = whole.grad().slice_cols(0, width).to_floats(ctx);
  for (const float other : whole.grad().slice_cols(width, 2 * width).to_floats(ctx)) EXPECT_EQ(other, 0.25F);
  return result;
}

TEST_P(Rotary, DoubleMatchesDefinition) {
  const RotaryCase& c = GetParam();
  const std::vector<double> x = values_of(c, "x");
  // Angles up to 65536 have an error of 2^-53 * 65536 = 7e-12 when pow rounds differently; here both call it alike.
  EXPECT_LE(relative_error(raw_rotary<double>(c, x, false), direct_rotary(c, x)), 1e-14);
}

// One rounding each of cosine, sine, two products and a sum of them: 2^-24 times a small number, at any position.
constexpr double kFloatTolerance = 2e-7;

TEST_P(Rotary, FloatMatchesDouble) {
  const RotaryCase& c = GetParam();
  const std::vector<double> x = convert<double>(convert<float>(values_of(c, "x")));
  for (const bool inverse : {false, true}) {
    EXPECT_LE(relative_error(raw_rotary(c, convert<float>(x), inverse), raw_rotary(c, x, inverse)), kFloatTolerance);
  }
}

TEST_P(Rotary, GradientMatchesComplexStep) {
  const RotaryCase& c = GetParam();
  const std::vector<double> x = values_of(c, "x");
  const std::vector<double> w = values_of(c, "w");
  const std::vector<double> direction = values_of(c, "d");
  const double derivative = complex_step(
      [&](const std::vector<Complex>& z) {
        const std::vector<Complex> y = raw_rotary(c, z, false);
        Complex sum = 0;
        for (size_t i = 0; i < y.size(); ++i) sum += w[i] * y[i];
        return sum;
      },
      x, direction);
  const std::vector<double> gradient = raw_rotary(c, w, true);
  double found = 0;
  double scale = 0;  // the sum's terms have random signs: the root of their squares is its natural size
  for (size_t i = 0; i < gradient.size(); ++i) {
    found += gradient[i] * direction[i];
    scale += gradient[i] * gradient[i] * direction[i] * direction[i];
  }
  EXPECT_LE(std::abs(found - derivative), 1e-12 * std::max(std::abs(derivative), std::sqrt(scale)));
}

TEST_P(Rotary, NodeOnColumns) {
  const RotaryCase& c = GetParam();
  const std::vector<double> x = convert<double>(convert<float>(values_of(c, "x")));
  const std::vector<double> w = convert<double>(convert<float>(values_of(c, "w")));
  const NodeResult node = node_rotary(cpu(), c, x, w, DType::f32);
  EXPECT_EQ(node.y, raw_rotary(c, convert<float>(x), false));
  EXPECT_EQ(node.dx, raw_rotary(c, convert<float>(w), true));
  if (c.rotary_dims > 0) {
    const NodeResult in_place = in_place_rotary(cpu(), c, x, w, DType::f32);
    EXPECT_EQ(in_place.y, node.y);
    EXPECT_EQ(in_place.dx, node.dx);
  }
  const NodeResult again = node_rotary(cpu(), c, x, w, DType::f32);
  EXPECT_EQ(node.y, again.y);
  EXPECT_EQ(node.dx, again.dx);
}

// Value of the node on x, by theta at `positions` or, twice as fast at the same places, by given frequencies.
std::vector<float> turned(Context& ctx, const std::vector<int32_t>& positions, double speed) {
  const RotaryCase c{"frequencies", {static_cast<int64_t>(positions.size())}, 0, 2, 16, 8, 1e4};
  Graph g(ctx, false);
  const Var x = g.constant(Tensor::from(ctx, convert<float>(values_of(c, "x")), {c.tokens(), c.width()}));
  const Tensor where = Tensor::from(ctx, positions, {c.tokens()});
  if (speed == 0) return rotary(g, x, c.heads, c.head_dim, c.rotary_dims, c.theta, where).value().to_floats(ctx);
  std::vector<double> frequencies;
  for (int i = 0; i < 4; ++i) frequencies.push_back(speed * std::pow(c.theta, -2.0 * i / 8.0));
  return rotary(g, x, c.heads, c.head_dim, frequencies, where).value().to_floats(ctx);
}

void expect_given_frequencies(Context& ctx) {
  EXPECT_EQ(turned(ctx, {0, 1, 2, 700}, 1.0), turned(ctx, {0, 1, 2, 700}, 0));
  EXPECT_LE(relative_error(turned(ctx, {0, 1, 2, 700}, 2.0), turned(ctx, {0, 2, 4, 1400}, 0)), 2e-7);
  EXPECT_GT(relative_error(turned(ctx, {0, 1, 2, 700}, 2.0), turned(ctx, {0, 1, 2, 700}, 0)), 0.1);
}

TEST(RotaryNode, GivenFrequencies) { expect_given_frequencies(cpu()); }

TEST(RotaryNodeCuda, GivenFrequencies) { expect_given_frequencies(*new_cuda()); }

// turn_in_place() turns as rotary_in_place() does, and on a GPU that records leaves the angles behind.
void expect_turn(Context& ctx, const RotaryCase& c) {
  std::vector<double> frequencies;
  for (int64_t i = 0; i < c.rotary_dims / 2; ++i) {
    frequencies.push_back(std::pow(c.theta, -2.0 * static_cast<double>(i) / static_cast<double>(c.rotary_dims)));
  }
  const Tensor positions = Tensor::from(ctx, c.positions(), {c.tokens()});
  const auto upload = [&] { return Tensor::from(ctx, convert<float>(values_of(c, "x")), {c.tokens(), c.width()}); };
  Graph g(ctx);
  const Var x = g.input(upload());
  const Var y = rotary_in_place(g, g.constant(upload()), c.heads, c.head_dim, frequencies, positions);
  const RotaryTurn turn = turn_in_place(g, x, c.heads, c.head_dim, frequencies, positions);
  EXPECT_EQ(x.value().to_floats(ctx), y.value().to_floats(ctx));
  EXPECT_EQ(g.size(), 0);
  EXPECT_EQ(turn.dims(), c.rotary_dims);
  Graph forward_only(ctx, false);
  const Var z = forward_only.constant(upload());
  EXPECT_FALSE(turn_in_place(forward_only, z, c.heads, c.head_dim, frequencies, positions).table.defined());
  EXPECT_EQ(z.value().to_floats(ctx), y.value().to_floats(ctx));
  ASSERT_EQ(turn.table.defined(), ctx.on_gpu());
  if (!ctx.on_gpu()) return;
  std::vector<double> angles;
  for (const int32_t position : c.positions()) {
    for (const double frequency : frequencies) angles.push_back(std::cos(position * frequency));
    for (const double frequency : frequencies) angles.push_back(std::sin(position * frequency));
  }
  EXPECT_LE(relative_error(turn.table.to_floats(ctx), angles), kFloatTolerance);
}

TEST_P(Rotary, TurnInPlace) {
  if (GetParam().rotary_dims > 0) expect_turn(cpu(), GetParam());
}
TEST_P(RotaryCuda, TurnInPlace) {
  if (GetParam().rotary_dims > 0) expect_turn(*new_cuda(), GetParam());
}

TEST(RotaryNode, AddsToAGradientThatIsThere) {
  const RotaryCase c{"accumulate", {5}, 0, 2, 16, 8, 1e4};
  const std::vector<float> w = convert<float>(values_of(c, "w"));
  Graph g(cpu());
  const Var x = g.input(Tensor::from(cpu(), convert<float>(values_of(c, "x")), {c.tokens(), c.width()}));
  const Var y = rotary(g, x, c.heads, c.head_dim, c.rotary_dims, c.theta, Tensor::from(cpu(), c.positions(), {5}));
  g.add_grad(x, Tensor::from(cpu(), std::vector<float>(w.size(), 1.0F), x.value().shape()));
  g.backward(y, Tensor::from(cpu(), w, y.value().shape()));
  std::vector<float> expected = raw_rotary(c, w, true);
  for (float& value : expected) value = 1.0F + value;
  EXPECT_EQ(x.grad().to_floats(cpu()), expected);
}

TEST(RotaryNode, Errors) {
  Graph g(cpu());
  const Var x = g.input(Tensor::zeros(cpu(), {3, 32}, DType::f32));
  const Tensor positions = Tensor::zeros(cpu(), {3}, DType::i32);
  const auto message = [&](int64_t heads, int64_t rotary_dims, const Tensor& at) -> std::string {
    try {
      rotary(g, x, heads, 16, rotary_dims, 1e4, at);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_EQ(message(2, 7, positions),
            "[rotary] rotary dims: found 7, expected an even number from 0 to the head width 16");
  EXPECT_EQ(message(2, 18, positions),
            "[rotary] rotary dims: found 18, expected an even number from 0 to the head width 16");
  EXPECT_EQ(message(3, 8, positions), "[rotary] x: found [3, 32], expected [3, 48]");
  EXPECT_EQ(message(2, 8, positions.slice_rows(0, 2)), "[rotary] positions: found [2], expected [3]");
  EXPECT_EQ(message(2, 8, Tensor::zeros(cpu(), {3}, DType::i64)), "[rotary] positions: found i64, expected i32");
}

TEST_P(RotaryCuda, MatchesOracle) {
  const RotaryCase& c = GetParam();
  const std::unique_ptr<Context> ctx = new_cuda();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto rounded = [&](const char* name) {
      const std::vector<double> v = values_of(c, name);
      return dtype == DType::bf16 ? round_bf16(v) : convert<double>(convert<float>(v));
    };
    const std::vector<double> x = rounded("x");
    const std::vector<double> w = rounded("w");
    const NodeResult node = node_rotary(*ctx, c, x, w, dtype);
    // float32: sine and cosine are within 2 ulp on a GPU. bf16: one rounding, of the result; of the gradient as well,
    // since the slot of the wider tensor starts at 0.
    const double ulp_term = 2 * kFloatTolerance;
    expect_within_rounding(node.y, raw_rotary(c, x, false), dtype, c.name + " y", ulp_term);
    expect_within_rounding(node.dx, raw_rotary(c, w, true), dtype, c.name + " dx", ulp_term);
    if (c.rotary_dims > 0) {
      const NodeResult in_place = in_place_rotary(*ctx, c, x, w, dtype);
      EXPECT_EQ(in_place.y, node.y);
      EXPECT_EQ(in_place.dx, node.dx);
    }
    const NodeResult again = node_rotary(*ctx, c, x, w, dtype);
    EXPECT_EQ(node.y, again.y);
    EXPECT_EQ(node.dx, again.dx);
  }
}

}  // namespace
}  // namespace matvlm
