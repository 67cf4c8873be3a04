// SSD recurrence: double against the closed form, float against double, gradients against complex step, the graph node
// on CPU and CUDA against the double oracle, carried states against the full pass.
#include <gtest/gtest.h>
#include <omp.h>

#include <array>

#include "autograd/ops/ssd.h"
#include "autograd/ops/ssd_cpu.h"
#include "tests/autograd/mixer_op_support.h"

namespace matvlm::testing {
namespace {

struct Case {
  const char* name;
  std::vector<int64_t> lengths;
  SsdShape shape;  // heads, x, b, c groups, P, N
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
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

enum Input { kX, kB, kC, kDt, kALog, kD, kDtBias, kInputs };
const std::array<std::string, kInputs> kNames = {"x", "b", "c", "dt", "a_log", "d", "dt_bias"};

template <class S>
using Values = std::array<std::vector<S>, kInputs>;

struct Problem {
  Case c;
  std::vector<int64_t> cu;
  Values<double> in;
  std::vector<double> dy;

  Problem(Case which, DType dtype) : c(std::move(which)), cu(boundaries(c.lengths)) {
    const SsdShape& s = c.shape;
    const int64_t t = cu.back();
    in[kX] = exact_values("x", t * s.x_groups * s.head_dim, dtype);
    in[kB] = exact_values("b", t * s.b_groups * s.state, dtype);
    in[kC] = exact_values("c", t * s.c_groups * s.state, dtype);
    in[kDt] = exact_values("dt", t * s.heads, dtype, 1.5);
    in[kALog] = exact_values("a_log", s.heads, DType::f32);
    in[kD] = exact_values("d", s.heads, DType::f32);
    // Time steps around 0.1: memories from a few to hundreds of tokens.
    in[kDtBias] = exact_values("dt_bias", s.heads, DType::f32);
    for (double& v : in[kDtBias]) v -= 3;
    in[kDtBias] = convert<double>(convert<float>(in[kDtBias]));
    dy = exact_values("dy", t * s.heads * s.head_dim, dtype);
  }
};

template <class S>
Values<S> converted(const Values<double>& in) {
  Values<S> out;
  for (size_t i = 0; i < kInputs; ++i) out[i] = convert<S>(in[i]);
  return out;
}

template <class S>
SsdArgs<S> args_of(const Problem& p, const Values<S>& in) {
  const SsdShape& s = p.c.shape;
  SsdArgs<S> a;
  a.shape = s;
  a.tokens = p.cu.back();
  a.batch = static_cast<int64_t>(p.cu.size()) - 1;
  a.cu = p.cu.data();
  a.x = in[kX].data();
  a.b = in[kB].data();
  a.c = in[kC].data();
  a.dt = in[kDt].data();
  a.a_log = in[kALog].data();
  a.d = in[kD].data();
  a.dt_bias = in[kDtBias].data();
  a.x_stride = s.x_groups * s.head_dim;
  a.b_stride = s.b_groups * s.state;
  a.c_stride = s.c_groups * s.state;
  a.dt_stride = s.heads;
  return a;
}

template <class S>
std::vector<S> forward(const Problem& p, const Values<S>& in) {
  SsdArgs<S> a = args_of(p, in);
  a.y_stride = a.shape.heads * a.shape.head_dim;
  Guarded<S> y(a.tokens * a.y_stride);
  a.y = y.data();
  ssd_forward_cpu(a);
  y.check("y");
  return y.values();
}

template <class S>
Values<S> backward(const Problem& p, const Values<S>& in, const std::vector<S>& dy) {
  SsdArgs<S> a = args_of(p, in);
  a.dy = dy.data();
  a.dy_stride = a.shape.heads * a.shape.head_dim;
  std::array<std::unique_ptr<Guarded<S>>, 4> grads;
  for (size_t i = 0; i < 4; ++i) grads[i] = std::make_unique<Guarded<S>>(static_cast<int64_t>(in[i].size()));
  a.dx = grads[kX]->data();
  a.db = grads[kB]->data();
  a.dc = grads[kC]->data();
  a.ddt = grads[kDt]->data();
  a.dx_stride = a.x_stride;
  a.db_stride = a.b_stride;
  a.dc_stride = a.c_stride;
  a.ddt_stride = a.dt_stride;
  Values<S> out;
  for (size_t i = kALog; i < kInputs; ++i) out[i].assign(in[i].size(), S(0));
  a.da_log = out[kALog].data();
  a.dd = out[kD].data();
  a.ddt_bias = out[kDtBias].data();
  std::vector<S> scratch(static_cast<size_t>(ssd_backward_scratch(a)) + 1, S(NAN));
  ssd_backward_cpu(a, scratch.data());
  EXPECT_TRUE(std::isnan(real_part(scratch.back()))) << "written past the scratch";
  for (size_t i = 0; i < 4; ++i) {
    grads[i]->check("gradient of " + kNames[i]);
    out[i] = grads[i]->values();
  }
  return out;
}

// y_t = sum over j <= t of exp(A (dt_{j+1} + ... + dt_t)) dt_j (C_t . B_j) x_j + D x_t, without any state.
std::vector<double> closed_form(const Problem& p) {
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

// Output and gradients of the graph node: y, then the inputs in order.
std::vector<std::vector<float>> run_graph(Context& ctx, const Problem& p, DType dtype, bool fused) {
  const SsdShape& s = p.c.shape;
  const int64_t tokens = p.cu.back();
  OpWeights weights;
  for (size_t i = kALog; i < kInputs; ++i) weights.declare(kNames[i], {s.heads}, true);
  weights.fill(ctx, dtype, {p.in[kALog], p.in[kD], p.in[kDtBias]});
  Graph g(ctx);
  const OpInputs in(g, {p.in[kX], p.in[kB], p.in[kC], p.in[kDt]}, tokens, dtype, fused);
  const Var y = ssd(g, s, in[kX], in[kB], in[kC], in[kDt], weights[0], weights[1], weights[2], make_seqlens(ctx, p.cu));
  std::vector<std::vector<float>> out = {y.value().to_floats(ctx)};
  g.backward(y, tensor_of(ctx, p.dy, {tokens, s.heads * s.head_dim}, dtype));
  for (size_t i = 0; i < kALog; ++i) out.push_back(in.grad(ctx, i));
  for (size_t i = 0; i < 3; ++i) out.push_back(weights.grad(ctx, i));
  return out;
}

// float32 rounds at 6e-8; a state sums up to some hundred tokens and a gradient of A_log all of them, with
// cancellation.
constexpr double kForwardTolerance = 2e-6;
constexpr double kGradientTolerance = 1e-5;

void check_graph(Context& ctx, DType dtype) {
  for (const Case& c : cases()) {
    const Problem p(c, dtype);
    const std::vector<double> y = forward(p, p.in);
    const Values<double> grads = backward(p, p.in, p.dy);
    for (const bool fused : {true, false}) {
      const std::string where = cat(c.name, fused ? ", fused: " : ", apart: ");
      const auto found = run_graph(ctx, p, dtype, fused);
      expect_close(found[0], y, dtype, kForwardTolerance, where + "y");
      for (size_t i = 0; i < kInputs; ++i) {
        const DType type = i < kALog ? dtype : DType::f32;
        expect_close(found[i + 1], grads[i], type, kGradientTolerance, where + "gradient of " + kNames[i]);
      }
      EXPECT_EQ(found, run_graph(ctx, p, dtype, fused)) << where << "same inputs, other bits";
    }
  }
}

TEST(Ssd, DoubleMatchesClosedForm) {
  for (const Case& c : cases()) {
    const Problem p(c, DType::f32);
    EXPECT_LE(relative_error(forward(p, p.in), closed_form(p)), 1e-12) << c.name;
  }
}

TEST(Ssd, FloatMatchesDouble) {
  for (const Case& c : cases()) {
    const Problem p(c, DType::f32);
    const Values<float> in = converted<float>(p.in);
    EXPECT_LE(relative_error(forward(p, in), forward(p, p.in)), kForwardTolerance) << c.name;
    const Values<float> found = backward(p, in, convert<float>(p.dy));
    const Values<double> exact = backward(p, p.in, p.dy);
    for (size_t i = 0; i < kInputs; ++i) {
      EXPECT_LE(relative_error(found[i], exact[i]), kGradientTolerance) << c.name << ": " << kNames[i];
    }
  }
}

TEST(Ssd, BackwardMatchesComplexStep) {
  for (const Case& c : cases()) {
    const Problem p(c, DType::f32);
    const Values<double> grads = backward(p, p.in, p.dy);
    for (size_t i = 0; i < kInputs; ++i) {
      Values<std::complex<double>> in = converted<std::complex<double>>(p.in);
      const auto loss = [&](const std::vector<std::complex<double>>& z) {
        in[i] = z;
        const auto y = forward(p, in);
        std::complex<double> sum = 0;
        for (size_t k = 0; k < y.size(); ++k) sum += y[k] * p.dy[k];
        return sum;
      };
      expect_complex_step(cat(c.name, ": ", kNames[i]), loss, p.in[i], grads[i]);
    }
  }
}

TEST(Ssd, GraphMatchesOracle) { check_graph(cpu(), DType::f32); }

TEST(Ssd, ThreadsDoNotChangeBits) {
  const Problem p(cases()[2], DType::f32);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const auto one = run_graph(cpu(), p, DType::f32, true);
  omp_set_num_threads(3);
  const auto three = run_graph(cpu(), p, DType::f32, true);
  omp_set_num_threads(threads);
  EXPECT_EQ(one, three);
}

// A prefill of unequal lengths, then decode steps of 1 and 3 tokens with states in place, in rows chosen by `slots`,
// then one step taken back: the same bits as the pass over the whole sequences.
void check_decode(Context& ctx, DType dtype) {
  const Case c{"decode", {9, 12, 7}, {3, 1, 3, 3, 16, 24}};
  const Problem p(c, dtype);
  const SsdShape& s = c.shape;
  const std::vector<int64_t> slots = {2, 0, 3};
  Graph g(ctx, false);
  OpWeights weights;
  for (size_t i = kALog; i < kInputs; ++i) weights.declare(kNames[i], {s.heads}, true);
  weights.fill(ctx, dtype, {p.in[kALog], p.in[kD], p.in[kDtBias]});
  const int64_t tokens = p.cu.back();
  const std::array<int64_t, 4> widths = {s.x_groups * s.head_dim, s.b_groups * s.state, s.c_groups * s.state, s.heads};
  std::array<Tensor, 4> whole;
  for (size_t i = 0; i < 4; ++i) whole[i] = tensor_of(ctx, p.in[i], {tokens, widths[i]}, dtype);

  // Tokens [from[b], to[b]) of every sequence, packed.
  const auto run = [&](const std::vector<int64_t>& from, const std::vector<int64_t>& to, const StateIo* state) {
    std::vector<int64_t> lengths;
    for (size_t b = 0; b < from.size(); ++b) lengths.push_back(to[b] - from[b]);
    const std::vector<int64_t> cu = boundaries(lengths);
    std::array<Var, 4> in;
    for (size_t i = 0; i < 4; ++i) {
      const Tensor part = Tensor::empty(ctx, {cu.back(), widths[i]}, dtype);
      for (size_t b = 0; b < from.size(); ++b) {
        part.slice_rows(cu[b], cu[b + 1]).copy_from(ctx, whole[i].slice_rows(p.cu[b] + from[b], p.cu[b] + to[b]));
      }
      in[i] = g.constant(part);
    }
    return ssd(g, s, in[kX], in[kB], in[kC], in[kDt], weights[0], weights[1], weights[2], make_seqlens(ctx, cu), state)
        .value()
        .to_floats(ctx);
  };
  StateIo full;
  full.every = Tensor::empty(ctx, {tokens, s.heads, s.head_dim, s.state}, DType::f32);
  const std::vector<float> expected = run({0, 0, 0}, c.lengths, &full);
  const std::vector<float> states = full.every.to_floats(ctx);
  const auto expect_tokens = [&](const std::vector<float>& found, const std::vector<float>& all, int64_t row,
                                 const std::vector<int64_t>& from, const std::vector<int64_t>& to, const char* what) {
    std::vector<float> want;
    for (size_t b = 0; b < from.size(); ++b) {
      want.insert(want.end(), all.begin() + (p.cu[b] + from[b]) * row, all.begin() + (p.cu[b] + to[b]) * row);
    }
    EXPECT_EQ(found, want) << what;
  };
  const int64_t y_row = s.heads * s.head_dim;
  const int64_t state_row = y_row * s.state;

  StateIo state;
  state.final = Tensor::zeros(ctx, {4, s.heads, s.head_dim, s.state}, DType::f32);
  state.slots = Tensor::from(ctx, slots, {3});
  expect_tokens(run({0, 0, 0}, {5, 8, 0}, &state), expected, y_row, {0, 0, 0}, {5, 8, 0}, "prefill");
  state.initial = state.final;
  expect_tokens(run({5, 8, 0}, {6, 9, 1}, &state), expected, y_row, {5, 8, 0}, {6, 9, 1}, "one token");
  state.every = Tensor::empty(ctx, {9, s.heads, s.head_dim, s.state}, DType::f32);
  expect_tokens(run({6, 9, 1}, {9, 12, 4}, &state), expected, y_row, {6, 9, 1}, {9, 12, 4}, "three tokens");
  expect_tokens(state.every.to_floats(ctx), states, state_row, {6, 9, 1}, {9, 12, 4}, "states after each token");
  // Sequence 2 goes back to its state after token 2 (row 6 of the step), the others stay.
  state.final.slice_rows(3, 4).copy_from(ctx, state.every.slice_rows(6, 7));
  state.every = Tensor();
  expect_tokens(run({9, 12, 2}, {9, 12, 7}, &state), expected, y_row, {9, 12, 2}, {9, 12, 7}, "after going back");
  std::vector<float> rows = state.final.to_floats(ctx);
  for (size_t b = 0; b < slots.size(); ++b) {
    const std::vector<float> found(rows.begin() + slots[b] * state_row, rows.begin() + (slots[b] + 1) * state_row);
    const std::vector<float> want(states.begin() + (p.cu[b + 1] - 1) * state_row,
                                  states.begin() + p.cu[b + 1] * state_row);
    EXPECT_EQ(found, want) << "final state of sequence " << b;
  }
  const std::vector<float> untouched(rows.begin() + state_row, rows.begin() + 2 * state_row);
  EXPECT_EQ(untouched, std::vector<float>(static_cast<size_t>(state_row), 0.0F)) << "a slot that no sequence uses";
}

TEST(Ssd, DecodeMatchesFullPass) { check_decode(cpu(), DType::f32); }

// Time steps that are zero, tiny, large and huge, decay rates of e^8: everything stays finite and right.
void check_extremes(Context& ctx) {
  Problem p({"extremes", {70, 65}, {3, 3, 3, 3, 16, 16}}, DType::f32);
  const std::array<double, 6> steps = {-1000, -80, 0, 30, 1000, -3};
  for (size_t i = 0; i < p.in[kDt].size(); ++i) p.in[kDt][i] = steps[(i * 7 + i / 11) % steps.size()];
  p.in[kALog] = {8, -20, 0};
  const std::vector<double> y = forward(p, p.in);
  const Values<double> grads = backward(p, p.in, p.dy);
  const auto found = run_graph(ctx, p, DType::f32, true);
  expect_close(found[0], y, DType::f32, kForwardTolerance, "extremes: y");
  for (size_t i = 0; i < kInputs; ++i) {
    for (const double v : grads[i]) ASSERT_TRUE(std::isfinite(v)) << kNames[i];
    expect_close(found[i + 1], grads[i], DType::f32, kGradientTolerance, "extremes: gradient of " + kNames[i]);
  }
}

TEST(Ssd, ExtremeStepsStayFinite) { check_extremes(cpu()); }

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
TEST(SsdCuda, DecodeMatchesFullPassFloat32) { check_decode(*new_cuda(), DType::f32); }
TEST(SsdCuda, DecodeMatchesFullPassBf16) { check_decode(*new_cuda(), DType::bf16); }
TEST(SsdCuda, ExtremeStepsStayFinite) { check_extremes(*new_cuda()); }

}  // namespace
}  // namespace matvlm::testing
