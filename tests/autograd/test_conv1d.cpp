// Causal convolution with SiLU: double against the formula, float against double, gradients against complex step, the
// graph node on CPU and CUDA against the double oracle, carried windows against the full pass.
#include <gtest/gtest.h>
#include <omp.h>

#include <array>

#include "autograd/ops/add.h"
#include "autograd/ops/conv1d.h"
#include "autograd/ops/conv1d_cpu.h"
#include "tests/autograd/mixer_op_support.h"

namespace matvlm::testing {
namespace {

struct Case {
  const char* name;
  std::vector<int64_t> lengths;
  int64_t channels, width;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"one token", {1}, 16, 4},
      {"shorter than the window", {2, 63, 1}, 33, 4},
      {"three taps, an empty sequence", {64, 0, 65, 63}, 31, 3},
      {"two taps", {255}, 80, 2},
      {"wide", {65, 1, 2}, 5 * 72, 4},
      {"long rows", {256, 257, 300}, 130, 4},
      {"tiles over many sequences", {31, 1, 0, 2, 3, 64, 0, 0, 1, 130, 5, 1, 127, 2}, 264, 4},
      {"last tile of one token", {33, 0, 96}, 8, 4},
      {"more sequences than lanes",
       {0, 3, 9, 0, 0, 4, 1, 2,  7, 0, 5, 11, 6, 0, 1, 1, 1, 2,  8,
        0, 4, 3, 1, 0, 0, 2, 12, 5, 1, 0, 3,  9, 2, 0, 0, 1, 40, 3},
       24,
       4},
  };
  return all;
}

enum Input { kX, kWeight, kBias, kInputs };
const std::array<std::string, kInputs> kNames = {"x", "weight", "bias"};
template <class S>
using Values = std::array<std::vector<S>, kInputs>;

struct Problem {
  Case c;
  std::vector<int64_t> cu;
  int64_t tokens;
  Values<double> in;
  std::vector<double> dy;

  Problem(Case which, DType dtype) : c(std::move(which)), cu(boundaries(c.lengths)), tokens(cu.back()) {
    in[kX] = exact_values("x", tokens * c.channels, dtype);
    in[kWeight] = exact_values("weight", c.channels * c.width, dtype);
    in[kBias] = exact_values("bias", c.channels, dtype);
    dy = exact_values("dy", tokens * c.channels, dtype);
    in[kX][0] = 150;  // both ends of the sigmoid
    in[kX][static_cast<size_t>(tokens * c.channels) - 1] = -150;
  }
};

template <class S>
Conv1dArgs<S> args_of(const Problem& p, const Values<S>& in) {
  Conv1dArgs<S> a;
  a.tokens = p.tokens;
  a.channels = p.c.channels;
  a.width = p.c.width;
  a.batch = static_cast<int64_t>(p.cu.size()) - 1;
  a.cu = p.cu.data();
  a.x = in[kX].data();
  a.weight = in[kWeight].data();
  a.bias = in[kBias].data();
  a.x_stride = a.y_stride = a.dy_stride = a.dx_stride = p.c.channels;
  return a;
}

template <class S>
std::vector<S> forward(const Problem& p, const Values<S>& in) {
  auto a = args_of(p, in);
  Guarded<S> y(a.tokens * a.channels);
  a.y = y.data();
  conv1d_forward_cpu(a);
  y.check("y");
  return y.values();
}

template <class S>
Values<S> backward(const Problem& p, const Values<S>& in, const std::vector<S>& dy) {
  auto a = args_of(p, in);
  a.dy = dy.data();
  Guarded<S> dx(a.tokens * a.channels);
  std::vector<S> dweight(in[kWeight].size(), S(0));
  std::vector<S> dbias(in[kBias].size(), S(0));
  a.dx = dx.data();
  a.dweight = dweight.data();
  a.dbias = dbias.data();
  conv1d_backward_cpu(a);
  dx.check("gradient of x");
  return {dx.values(), dweight, dbias};
}

std::vector<double> formula(const Problem& p) {
  std::vector<double> y(p.in[kX].size());
  for (size_t b = 0; b + 1 < p.cu.size(); ++b) {
    for (int64_t t = p.cu[b]; t < p.cu[b + 1]; ++t) {
      for (int64_t c = 0; c < p.c.channels; ++c) {
        double pre = p.in[kBias][static_cast<size_t>(c)];
        for (int64_t back = 0; back < p.c.width && t - back >= p.cu[b]; ++back) {
          pre += p.in[kWeight][static_cast<size_t>((c + 1) * p.c.width - 1 - back)] *
                 p.in[kX][static_cast<size_t>((t - back) * p.c.channels + c)];
        }
        y[static_cast<size_t>(t * p.c.channels + c)] = pre / (1.0 + std::exp(-pre));
      }
    }
  }
  return y;
}

// Output and gradients; with `uses` 2 those of the op applied twice to the same inputs and added.
std::vector<std::vector<float>> run_graph(Context& ctx, const Problem& p, DType dtype, Rows rows, int uses = 1) {
  OpWeights weights;
  weights.declare("conv1d.weight", {p.c.channels, 1, p.c.width});
  weights.declare("conv1d.bias", {p.c.channels});
  weights.fill(ctx, dtype, {p.in[kWeight], p.in[kBias]});
  Graph g(ctx);
  const OpInputs in(g, {p.in[kX]}, p.tokens, dtype, rows);
  const auto lens = make_seqlens(ctx, p.cu);
  Var y = causal_conv1d_silu(g, in[0], weights[0], weights[1], lens);
  for (int i = 1; i < uses; ++i) y = add(g, {y, causal_conv1d_silu(g, in[0], weights[0], weights[1], lens)});
  std::vector<std::vector<float>> found = {y.value().to_floats(ctx)};
  g.backward(y, tensor_of(ctx, p.dy, {p.tokens, p.c.channels}, dtype));
  found.push_back(in.grad(ctx, 0));
  found.push_back(weights.grad(ctx, 0));
  found.push_back(weights.grad(ctx, 1));
  return found;
}

// float32 rounds at 6e-8; an output sums 5 terms, a weight gradient up to 813 tokens around the 0.5 that it holds.
constexpr double kForwardTolerance = 5e-7;
constexpr double kGradientTolerance = 3e-6;

void check_graph(Context& ctx, DType dtype) {
  for (const Case& c : cases()) {
    const Problem p(c, dtype);
    const std::vector<double> y = forward(p, p.in);
    const Values<double> grads = backward(p, p.in, p.dy);
    for (const Rows rows : kAllRows) {
      const std::string where = cat(c.name, ", ", name_of(rows), ": ");
      const auto found = run_graph(ctx, p, dtype, rows);
      expect_close(found[0], y, dtype, kForwardTolerance, where + "y");
      for (size_t i = 0; i < kInputs; ++i) {
        const DType type = i == kX ? dtype : DType::f32;
        expect_close(found[i + 1], grads[i], type, kGradientTolerance, where + "gradient of " + kNames[i]);
      }
      EXPECT_EQ(found, run_graph(ctx, p, dtype, rows)) << where << "same inputs, other bits";
    }
  }
}

// The second gradient of x is added to the first.
void check_accumulation(Context& ctx, DType dtype) {
  const Problem p(cases()[4], dtype);
  Values<double> grads = backward(p, p.in, p.dy);
  for (auto& grad : grads) {
    for (double& v : grad) v *= 2;
  }
  for (const Rows rows : kAllRows) {
    const auto found = run_graph(ctx, p, dtype, rows, 2);
    for (size_t i = 0; i < kInputs; ++i) {
      expect_close(found[i + 1], grads[i], i == kX ? dtype : DType::f32, kGradientTolerance,
                   cat("twice, ", name_of(rows), ": gradient of ", kNames[i]));
    }
  }
}

TEST(Conv1d, DoubleMatchesFormula) {
  for (const Case& c : cases()) {
    const Problem p(c, DType::f32);
    EXPECT_LE(relative_error(forward(p, p.in), formula(p)), 1e-14) << c.name;
  }
}

TEST(Conv1d, FloatMatchesDouble) {
  for (const Case& c : cases()) {
    const Problem p(c, DType::f32);
    Values<float> in;
    for (size_t i = 0; i < kInputs; ++i) in[i] = convert<float>(p.in[i]);
    EXPECT_LE(relative_error(forward(p, in), forward(p, p.in)), kForwardTolerance) << c.name;
    const Values<float> found = backward(p, in, convert<float>(p.dy));
    const Values<double> exact = backward(p, p.in, p.dy);
    for (size_t i = 0; i < kInputs; ++i) {
      EXPECT_LE(relative_error(found[i], exact[i]), kGradientTolerance) << c.name << ": " << kNames[i];
    }
  }
}

TEST(Conv1d, BackwardMatchesComplexStep) {
  for (const Case& c : cases()) {
    const Problem p(c, DType::f32);
    const Values<double> grads = backward(p, p.in, p.dy);
    for (size_t i = 0; i < kInputs; ++i) {
      Values<std::complex<double>> in;
      for (size_t k = 0; k < kInputs; ++k) in[k] = convert<std::complex<double>>(p.in[k]);
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

TEST(Conv1d, GraphMatchesOracle) { check_graph(cpu(), DType::f32); }
TEST(Conv1d, GradientsAccumulate) { check_accumulation(cpu(), DType::f32); }

TEST(Conv1d, ThreadsDoNotChangeBits) {
  const Problem p(cases()[5], DType::f32);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const auto one = run_graph(cpu(), p, DType::f32, Rows::unaligned_views);
  omp_set_num_threads(3);
  const auto three = run_graph(cpu(), p, DType::f32, Rows::unaligned_views);
  omp_set_num_threads(threads);
  EXPECT_EQ(one, three);
}

// A prefill of unequal lengths (one shorter than the window, one empty), then steps of 1 and 3 tokens with windows in
// place, in rows chosen by `slots`, then one step taken back: the same bits as the pass over the whole sequences.
// `longer`: tokens that the first two sequences have more in their prefill.
void check_decode(Context& ctx, DType dtype, int64_t width, int64_t channels, int64_t longer) {
  const Problem p({"decode", {9 + longer, 12 + longer, 7}, channels, width}, dtype);
  OpWeights weights;
  weights.declare("conv1d.weight", {channels, 1, width});
  weights.declare("conv1d.bias", {channels});
  weights.fill(ctx, dtype, {p.in[kWeight], p.in[kBias]});
  Graph g(ctx, false);
  const Tensor whole = tensor_of(ctx, p.in[kX], {p.tokens, channels}, dtype);
  const auto shifted = [&](std::vector<int64_t> at) {
    at[0] += longer;
    at[1] += longer;
    return at;
  };
  const auto run = [&](const std::vector<int64_t>& from, const std::vector<int64_t>& to, const StateIo* state) {
    std::vector<int64_t> lengths;
    for (size_t b = 0; b < from.size(); ++b) lengths.push_back(to[b] - from[b]);
    const std::vector<int64_t> cu = boundaries(lengths);
    const Tensor x = Tensor::empty(ctx, {cu.back(), channels}, dtype);
    for (size_t b = 0; b < from.size(); ++b) {
      x.slice_rows(cu[b], cu[b + 1]).copy_from(ctx, whole.slice_rows(p.cu[b] + from[b], p.cu[b] + to[b]));
    }
    return causal_conv1d_silu(g, g.constant(x), weights[0], weights[1], make_seqlens(ctx, cu), state)
        .value()
        .to_floats(ctx);
  };
  const std::vector<float> expected = run({0, 0, 0}, p.c.lengths, nullptr);
  const auto expect_tokens = [&](const std::vector<float>& found, const std::vector<int64_t>& from,
                                 const std::vector<int64_t>& to, const char* what) {
    std::vector<float> want;
    for (size_t b = 0; b < from.size(); ++b) {
      want.insert(want.end(), expected.begin() + (p.cu[b] + from[b]) * channels,
                  expected.begin() + (p.cu[b] + to[b]) * channels);
    }
    EXPECT_EQ(found, want) << what << ", " << width << " taps";
  };
  const auto step = [&](std::vector<int64_t> from, std::vector<int64_t> to, const StateIo& state, const char* what) {
    from = shifted(std::move(from));
    to = shifted(std::move(to));
    expect_tokens(run(from, to, &state), from, to, what);
  };
  StateIo state;
  state.final = Tensor::zeros(ctx, {4, width - 1, channels}, dtype);
  state.slots = Tensor::from(ctx, std::vector<int64_t>{2, 0, 3}, {3});
  step({-longer, -longer, 0}, {5, 1, 0}, state, "prefill");
  state.initial = state.final;
  step({5, 1, 0}, {6, 2, 1}, state, "one token");
  state.every = Tensor::empty(ctx, {9, width - 1, channels}, dtype);
  step({6, 2, 1}, {9, 5, 4}, state, "three tokens");
  // Sequence 2 goes back to its window after token 2 (row 6 of the step), the others stay.
  state.final.slice_rows(3, 4).copy_from(ctx, state.every.slice_rows(6, 7));
  state.every = Tensor();
  step({9, 5, 2}, {9, 12, 7}, state, "after going back");
  const std::vector<float> rows = state.final.to_floats(ctx);
  const std::vector<float> x = whole.to_floats(ctx);
  const int64_t row = (width - 1) * channels;
  const std::vector<int64_t> slots = {2, 0, 3};
  for (size_t b = 0; b < slots.size(); ++b) {
    const std::vector<float> found(rows.begin() + slots[b] * row, rows.begin() + (slots[b] + 1) * row);
    const std::vector<float> want(x.begin() + p.cu[b + 1] * channels - row, x.begin() + p.cu[b + 1] * channels);
    EXPECT_EQ(found, want) << "window of sequence " << b << ", " << width << " taps";
  }
  EXPECT_EQ(std::vector<float>(rows.begin() + row, rows.begin() + 2 * row),
            std::vector<float>(static_cast<size_t>(row), 0.0F));
}

// Whole and broken vectors of channels; prefills short enough for the kernel of decode steps, and longer ones.
void check_decode(Context& ctx, DType dtype) {
  for (const int64_t width : {2, 3, 4}) {
    for (const int64_t channels : {37, 40}) {
      for (const int64_t longer : {0, 40}) check_decode(ctx, dtype, width, channels, longer);
    }
  }
}

TEST(Conv1d, DecodeMatchesFullPass) { check_decode(cpu(), DType::f32); }

TEST(Conv1d, BadInputsAreNamed) {
  Context& ctx = cpu();
  const auto message = [&](Shape weight, std::vector<int64_t> cu, bool recording, const StateIo* state) {
    Graph g(ctx, recording);
    try {
      causal_conv1d_silu(g, g.constant(Tensor::zeros(ctx, {5, 6}, DType::f32)),
                         Weight{Tensor::zeros(ctx, std::move(weight), DType::f32)},
                         Weight{Tensor::zeros(ctx, {6}, DType::f32)}, make_seqlens(ctx, std::move(cu)), state);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(message({6, 1, 4}, {0, 5}, true, nullptr), "no error");
  EXPECT_EQ(message({6, 1, 5}, {0, 5}, true, nullptr), "[conv1d] weight: found 5 taps, expected 2 to 4");
  EXPECT_EQ(message({5, 1, 4}, {0, 5}, true, nullptr), "[conv1d] weight: found [5, 1, 4], expected [6, 1, 4]");
  EXPECT_EQ(message({6, 1, 4}, {0, 6}, true, nullptr), "[conv1d] sample boundaries cover 6 tokens, expected 5");
  StateIo state;
  state.final = Tensor::zeros(ctx, {1, 3, 6}, DType::f32);
  EXPECT_EQ(message({6, 1, 4}, {0, 5}, true, &state),
            "[conv1d] a carried state in a recording graph: no gradient goes through it");
  EXPECT_EQ(message({6, 1, 3}, {0, 5}, false, &state), "[conv1d] final state: found [1, 3, 6], expected [1, 2, 6]");
}

TEST(Conv1dCuda, Float32MatchesOracle) { check_graph(*new_cuda(), DType::f32); }
TEST(Conv1dCuda, Bf16MatchesOracle) { check_graph(*new_cuda(), DType::bf16); }
TEST(Conv1dCuda, GradientsAccumulateFloat32) { check_accumulation(*new_cuda(), DType::f32); }
TEST(Conv1dCuda, GradientsAccumulateBf16) { check_accumulation(*new_cuda(), DType::bf16); }
TEST(Conv1dCuda, DecodeMatchesFullPassFloat32) { check_decode(*new_cuda(), DType::f32); }
TEST(Conv1dCuda, DecodeMatchesFullPassBf16) { check_decode(*new_cuda(), DType::bf16); }

}  // namespace
}  // namespace matvlm::testing
