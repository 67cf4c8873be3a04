// SSD recurrence: double against the closed form, float against double, gradients against complex step, the graph node
// on CPU and CUDA against the double oracle. Carried states: test_ssd_states.cpp; kernels: test_ssd_raw.cpp.
#include <gtest/gtest.h>
#include <omp.h>

#include "tests/autograd/ssd_reference.h"

namespace matvlm::testing {
namespace {

const std::vector<SsdCase>& cases() {
  static const std::vector<SsdCase> all = {
      {"one token", {1}, {1, 1, 1, 1, 16, 16}},
      {"short rows, odd heads, shared x and B", {2, 63, 1}, {3, 1, 1, 3, 16, 16}},
      {"two groups", {64, 65, 63}, {4, 2, 2, 4, 16, 16}},
      {"shared C, P and N differ, an empty sequence", {65, 0, 2}, {6, 3, 2, 1, 24, 40}},
      {"neither width a multiple of anything", {33, 17, 31}, {2, 2, 1, 2, 13, 7}},
      {"P = N = 72", {255}, {3, 3, 3, 3, 72, 72}},
      {"P = N = 80", {256, 257, 300}, {3, 3, 1, 3, 80, 80}},
      {"widest", {19}, {2, 2, 2, 2, 128, 128}},
  };
  return all;
}

// y_t = sum over j <= t of exp(A (dt_{j+1} + ... + dt_t)) dt_j (C_t . B_j) x_j + D x_t, without any state.
std::vector<double> closed_form(const SsdProblem& p) {
  const SsdShape& s = p.c.shape;
  const int64_t tokens = p.cu.back();
  std::vector<double> y(static_cast<size_t>(tokens * s.heads * s.head_dim), 0.0);
  const auto at = [](const std::vector<double>& v, int64_t i) { return v[static_cast<size_t>(i)]; };
  for (int64_t h = 0; h < s.heads; ++h) {
    const int64_t xg = h * s.x_groups / s.heads;
    const int64_t bg = h * s.b_groups / s.heads;
    const int64_t cg = h * s.c_groups / s.heads;
    const auto step = [&](int64_t t) {
      return std::log1p(std::exp(at(p.in[kDt], t * s.heads + h) + at(p.in[kDtBias], h)));
    };
    for (size_t b = 0; b + 1 < p.cu.size(); ++b) {
      for (int64_t t = p.cu[b]; t < p.cu[b + 1]; ++t) {
        double elapsed = 0;
        double* out = y.data() + (t * s.heads + h) * s.head_dim;
        for (int64_t j = t; j >= p.cu[b]; --j) {
          double cb = 0;
          for (int64_t n = 0; n < s.state; ++n) {
            cb += at(p.in[kC], (t * s.c_groups + cg) * s.state + n) * at(p.in[kB], (j * s.b_groups + bg) * s.state + n);
          }
          const double factor =
              std::exp(-std::exp(at(p.in[kALog], h)) * elapsed) * step(j) * cb + (j == t ? at(p.in[kD], h) : 0.0);
          for (int64_t i = 0; i < s.head_dim; ++i) {
            out[i] += factor * at(p.in[kX], (j * s.x_groups + xg) * s.head_dim + i);
          }
          elapsed += step(j);
        }
      }
    }
  }
  return y;
}

// Output and gradients of the graph node.
SsdResult run_graph(Context& ctx, const SsdProblem& p, DType dtype, bool fused) {
  const SsdShape& s = p.c.shape;
  const int64_t tokens = p.tokens();
  OpWeights weights;
  for (size_t i = kALog; i < kInitial; ++i) weights.declare(kSsdNames[i], {s.heads}, true);
  weights.fill(ctx, dtype, {p.in[kALog], p.in[kD], p.in[kDtBias]});
  Graph g(ctx);
  const OpInputs in(g, {p.in[kX], p.in[kB], p.in[kC], p.in[kDt]}, tokens, dtype, fused);
  const Var y = ssd(g, s, in[kX], in[kB], in[kC], in[kDt], weights[0], weights[1], weights[2], make_seqlens(ctx, p.cu));
  SsdResult out;
  out.y = y.value().to_floats(ctx);
  g.backward(y, tensor_of(ctx, p.dy, {tokens, s.heads * s.head_dim}, dtype));
  for (size_t i = 0; i < kALog; ++i) out.grads[i] = in.grad(ctx, i);
  for (size_t i = kALog; i < kInitial; ++i) out.grads[i] = weights.grad(ctx, i - kALog);
  return out;
}

void check_graph(Context& ctx, DType dtype) {
  for (const SsdCase& c : cases()) {
    const SsdProblem p(c, dtype);
    const SsdReference exact = ssd_reference(p);
    for (const bool fused : {true, false}) {
      const std::string where = cat(c.name, fused ? ", fused" : ", apart");
      const SsdResult found = run_graph(ctx, p, dtype, fused);
      expect_matches(p, dtype, found, exact, {}, where);
      EXPECT_TRUE(found == run_graph(ctx, p, dtype, fused)) << where << ": same inputs, other bits";
    }
  }
}

// float32 rounds at 6e-8; a state sums up to some hundred tokens and a gradient of A_log all of them, with
// cancellation.
constexpr double kForwardTolerance = 2e-6;
constexpr double kGradientTolerance = 1e-5;

TEST(Ssd, DoubleMatchesClosedForm) {
  for (const SsdCase& c : cases()) {
    const SsdProblem p(c, DType::f32);
    EXPECT_LE(relative_error(host_forward(p, p.in).y, closed_form(p)), 1e-12) << c.name;
  }
}

TEST(Ssd, FloatMatchesDouble) {
  for (const SsdCase& c : cases()) {
    const SsdProblem p(c, DType::f32);
    const SsdValues<float> in = converted<float>(p.in);
    EXPECT_LE(relative_error(host_forward(p, in).y, host_forward(p, p.in).y), kForwardTolerance) << c.name;
    const SsdValues<float> found = host_backward(p, in, convert<float>(p.dy), {});
    const SsdValues<double> exact = host_backward(p, p.in, p.dy, {});
    for (size_t i = 0; i < kSsdInputs; ++i) {
      EXPECT_LE(relative_error(found[i], exact[i]), kGradientTolerance) << c.name << ": " << kSsdNames[i];
    }
  }
}

TEST(Ssd, BackwardMatchesComplexStep) {
  for (const SsdCase& c : cases()) {
    const SsdProblem p(c, DType::f32);
    const SsdValues<double> grads = host_backward(p, p.in, p.dy, {});
    for (size_t i = 0; i < kInitial; ++i) {
      SsdValues<std::complex<double>> in = converted<std::complex<double>>(p.in);
      const auto loss = [&](const std::vector<std::complex<double>>& z) {
        in[i] = z;
        const auto y = host_forward(p, in).y;
        std::complex<double> sum = 0;
        for (size_t k = 0; k < y.size(); ++k) sum += y[k] * p.dy[k];
        return sum;
      };
      expect_complex_step(cat(c.name, ": ", kSsdNames[i]), loss, p.in[i], grads[i]);
    }
  }
}

TEST(Ssd, GraphMatchesOracle) { check_graph(cpu(), DType::f32); }

TEST(Ssd, ThreadsDoNotChangeBits) {
  const SsdProblem p(cases()[2], DType::f32);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const auto one = run_graph(cpu(), p, DType::f32, true);
  omp_set_num_threads(3);
  const auto three = run_graph(cpu(), p, DType::f32, true);
  omp_set_num_threads(threads);
  EXPECT_TRUE(one == three);
}

TEST(Ssd, BadInputsAreNamed) {
  Context& ctx = cpu();
  const SsdShape shape{4, 2, 4, 4, 8, 8};
  OpWeights weights;
  for (const char* name : {"a_log", "d", "dt_bias"}) weights.declare(name, {4}, true);
  weights.fill(ctx, DType::f32, {{0, 0, 0, 0}, {0, 0, 0, 0}, {0, 0, 0, 0}});
  const auto message = [&](SsdShape s, int64_t x_width, std::vector<int64_t> cu, bool recording, const StateIo* state) {
    Graph g(ctx, recording);
    const auto zeros = [&](int64_t width) { return g.constant(Tensor::zeros(ctx, {5, width}, DType::f32)); };
    try {
      ssd(g, s, zeros(x_width), zeros(32), zeros(32), zeros(4), weights[0], weights[1], weights[2],
          make_seqlens(ctx, std::move(cu)), state);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(message(shape, 16, {0, 5}, true, nullptr), "no error");
  EXPECT_EQ(message(shape, 32, {0, 5}, true, nullptr), "[ssd] x: found [5, 32], expected [5, 16]");
  SsdShape uneven = shape;
  uneven.x_groups = 3;
  EXPECT_EQ(message(uneven, 24, {0, 5}, true, nullptr), "[ssd] x_groups: found 3, expected a divisor of 4 heads");
  EXPECT_EQ(message(shape, 16, {0, 4}, true, nullptr), "[ssd] sample boundaries cover 4 tokens, expected 5");
  StateIo state;
  state.final = Tensor::zeros(ctx, {1, 4, 8, 8}, DType::f32);
  EXPECT_EQ(message(shape, 16, {0, 5}, true, &state),
            "[ssd] a carried state in a recording graph: no gradient goes through it");
  EXPECT_EQ(message(shape, 16, {0, 2, 5}, false, &state),
            "[ssd] final state: found 1 rows, expected one for each of 2 sequences");
  state.slots = Tensor::from(ctx, std::vector<int64_t>{1}, {1});
  EXPECT_EQ(message(shape, 16, {0, 5}, false, &state), "[ssd] slots[0]: found 1, expected a row below 1");
}

TEST(SsdCuda, Float32MatchesOracle) { check_graph(*new_cuda(), DType::f32); }
TEST(SsdCuda, Bf16MatchesOracle) { check_graph(*new_cuda(), DType::bf16); }

}  // namespace
}  // namespace matvlm::testing
