// Gated RMSNorm: double against the formula, float against double, gradients against complex step, the graph node on
// CPU and CUDA against the double oracle.
#include <gtest/gtest.h>
#include <omp.h>

#include <array>
#include <memory>

#include "autograd/ops/add.h"
#include "autograd/ops/gated_rms_norm.h"
#include "autograd/ops/gated_rms_norm_cpu.h"
#include "tests/autograd/mixer_op_support.h"

namespace matvlm::testing {
namespace {

struct Case {
  const char* name;
  int64_t tokens, groups, group;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"one token", 1, 1, 16},
      {"two tokens, odd groups", 2, 3, 16},
      {"63 tokens, P = 72", 63, 5, 72},
      {"64 tokens", 64, 2, 80},
      {"65 tokens, P = 80", 65, 7, 80},
      {"width 7", 255, 3, 7},
      {"256 tokens", 256, 4, 48},
      {"257 tokens, width 1", 257, 6, 1},
      {"300 tokens, wide group", 300, 1, 130},
      {"P = 80, many heads", 131, 11, 80},
      {"P = 128", 130, 3, 128},
      {"P = 64", 33, 9, 64},
      {"P = 400", 33, 2, 400},
      {"P = 640", 35, 1, 640},
      {"wider than a warp", 70, 2, 1200},
  };
  return all;
}

constexpr double kEps = 1e-5;
enum Input { kY, kZ, kWeight, kInputs };
const std::array<std::string, kInputs> kNames = {"y", "z", "weight"};
template <class S>
using Values = std::array<std::vector<S>, kInputs>;

struct Problem {
  Case c;
  int64_t channels;
  Values<double> in;
  std::vector<double> dout;

  Problem(const Case& which, DType dtype) : c(which), channels(which.groups * which.group) {
    const int64_t n = c.tokens * channels;
    in[kY] = exact_values("y", n, dtype);
    in[kZ] = exact_values("z", n, dtype, 3.0);
    in[kWeight] = exact_values("weight", channels, dtype);
    dout = exact_values("dout", n, dtype);
    // A group of zeros: only eps keeps it finite.
    std::fill_n(in[kY].begin(), c.group, 0.0);
    // Gates at both ends of the sigmoid.
    if (c.tokens > 1) {
      in[kZ][static_cast<size_t>(channels)] = 200;
      in[kZ][static_cast<size_t>(channels) + 1] = -200;
    }
  }
};

template <class S>
GatedRmsNormArgs<S> args_of(const Problem& p, const Values<S>& in) {
  GatedRmsNormArgs<S> a;
  a.tokens = p.c.tokens;
  a.channels = p.channels;
  a.group = p.c.group;
  a.eps = kEps;
  a.y = in[kY].data();
  a.z = in[kZ].data();
  a.weight = in[kWeight].data();
  a.y_stride = a.z_stride = a.out_stride = a.dout_stride = a.dy_stride = a.dz_stride = p.channels;
  return a;
}

template <class S>
std::vector<S> forward(const Problem& p, const Values<S>& in) {
  auto a = args_of(p, in);
  Guarded<S> out(a.tokens * a.channels);
  a.out = out.data();
  gated_rms_norm_forward_cpu(a);
  out.check("out");
  return out.values();
}

template <class S>
Values<S> backward(const Problem& p, const Values<S>& in, const std::vector<S>& dout) {
  auto a = args_of(p, in);
  a.dout = dout.data();
  Guarded<S> dy(a.tokens * a.channels);
  Guarded<S> dz(a.tokens * a.channels);
  std::vector<S> dweight(static_cast<size_t>(a.channels), S(0));
  a.dy = dy.data();
  a.dz = dz.data();
  a.dweight = dweight.data();
  Guarded<S> scratch(gated_rms_norm_backward_scratch(a));
  gated_rms_norm_backward_cpu(a, scratch.data());
  dy.check("gradient of y");
  dz.check("gradient of z");
  scratch.check("scratch");
  return {dy.values(), dz.values(), dweight};
}

std::vector<double> formula(const Problem& p) {
  std::vector<double> out(p.in[kY].size());
  const auto width = static_cast<size_t>(p.c.group);
  for (size_t begin = 0; begin < out.size(); begin += width) {
    double squares = 0;
    for (size_t i = begin; i < begin + width; ++i) {
      out[i] = p.in[kY][i] * p.in[kZ][i] / (1.0 + std::exp(-p.in[kZ][i]));
      squares += out[i] * out[i];
    }
    const double rms = std::sqrt(squares / static_cast<double>(width) + kEps);
    for (size_t i = begin; i < begin + width; ++i) {
      out[i] *= p.in[kWeight][i % static_cast<size_t>(p.channels)] / rms;
    }
  }
  return out;
}

// Output and gradients; with `uses` 2 those of the op applied twice to the same inputs and added.
std::vector<std::vector<float>> run_graph(Context& ctx, const Problem& p, DType dtype, Rows rows, int uses = 1) {
  OpWeights weights;
  weights.declare("norm.weight", {p.channels});
  weights.fill(ctx, dtype, {p.in[kWeight]});
  Graph g(ctx);
  const OpInputs in(g, {p.in[kY], p.in[kZ]}, p.c.tokens, dtype, rows);
  Var out = gated_rms_norm(g, in[kY], in[kZ], weights[0], p.c.group, kEps);
  for (int i = 1; i < uses; ++i) out = add(g, {out, gated_rms_norm(g, in[kY], in[kZ], weights[0], p.c.group, kEps)});
  std::vector<std::vector<float>> found = {out.value().to_floats(ctx)};
  g.backward(out, tensor_of(ctx, p.dout, {p.c.tokens, p.channels}, dtype));
  found.push_back(in.grad(ctx, kY));
  found.push_back(in.grad(ctx, kZ));
  found.push_back(weights.grad(ctx, 0));
  return found;
}

// float32 rounds at 6e-8; a group's sum has some hundred terms, a weight gradient sums a few hundred tokens around the
// 0.5 that the gradient holds already.
constexpr double kForwardTolerance = 1e-6;
constexpr double kGradientTolerance = 3e-6;

void check_graph(Context& ctx, DType dtype, const std::vector<Case>& which = cases()) {
  for (const Case& c : which) {
    const Problem p(c, dtype);
    const std::vector<double> out = forward(p, p.in);
    const Values<double> grads = backward(p, p.in, p.dout);
    for (const Rows rows : kAllRows) {
      const std::string where = cat(c.name, ", ", name_of(rows), ": ");
      const auto found = run_graph(ctx, p, dtype, rows);
      expect_close(found[0], out, dtype, kForwardTolerance, where + "out");
      for (size_t i = 0; i < kInputs; ++i) {
        const DType type = i == kWeight ? DType::f32 : dtype;
        expect_close(found[i + 1], grads[i], type, kGradientTolerance, where + "gradient of " + kNames[i]);
      }
      EXPECT_EQ(found, run_graph(ctx, p, dtype, rows)) << where << "same inputs, other bits";
    }
  }
}

// The second gradients of y and z are added to the first. 80 wide and 1200 wide: both kernels.
void check_accumulation(Context& ctx, DType dtype) {
  for (const size_t which : {4, 14}) {
    const Problem p(cases()[which], dtype);
    Values<double> grads = backward(p, p.in, p.dout);
    for (auto& grad : grads) {
      for (double& v : grad) v *= 2;
    }
    for (const Rows rows : kAllRows) {
      const auto found = run_graph(ctx, p, dtype, rows, 2);
      for (size_t i = 0; i < kInputs; ++i) {
        expect_close(found[i + 1], grads[i], i == kWeight ? DType::f32 : dtype, kGradientTolerance,
                     cat(p.c.name, " twice, ", name_of(rows), ": gradient of ", kNames[i]));
      }
    }
  }
}

TEST(GatedRmsNorm, DoubleMatchesFormula) {
  for (const Case& c : cases()) {
    const Problem p(c, DType::f32);
    EXPECT_LE(relative_error(forward(p, p.in), formula(p)), 1e-14) << c.name;
  }
}

TEST(GatedRmsNorm, FloatMatchesDouble) {
  for (const Case& c : cases()) {
    const Problem p(c, DType::f32);
    Values<float> in;
    for (size_t i = 0; i < kInputs; ++i) in[i] = convert<float>(p.in[i]);
    EXPECT_LE(relative_error(forward(p, in), forward(p, p.in)), kForwardTolerance) << c.name;
    const Values<float> found = backward(p, in, convert<float>(p.dout));
    const Values<double> exact = backward(p, p.in, p.dout);
    for (size_t i = 0; i < kInputs; ++i) {
      EXPECT_LE(relative_error(found[i], exact[i]), kGradientTolerance) << c.name << ": " << kNames[i];
    }
  }
}

TEST(GatedRmsNorm, BackwardMatchesComplexStep) {
  for (const Case& c : cases()) {
    const Problem p(c, DType::f32);
    const Values<double> grads = backward(p, p.in, p.dout);
    for (size_t i = 0; i < kInputs; ++i) {
      Values<std::complex<double>> in;
      for (size_t k = 0; k < kInputs; ++k) in[k] = convert<std::complex<double>>(p.in[k]);
      const auto loss = [&](const std::vector<std::complex<double>>& z) {
        in[i] = z;
        const auto out = forward(p, in);
        std::complex<double> sum = 0;
        for (size_t k = 0; k < out.size(); ++k) sum += out[k] * p.dout[k];
        return sum;
      };
      expect_complex_step(cat(c.name, ": ", kNames[i]), loss, p.in[i], grads[i]);
    }
  }
}

TEST(GatedRmsNorm, GraphMatchesOracle) { check_graph(cpu(), DType::f32); }
TEST(GatedRmsNorm, GradientsAccumulate) { check_accumulation(cpu(), DType::f32); }

TEST(GatedRmsNorm, ThreadsDoNotChangeBits) {
  const Problem p(cases()[8], DType::f32);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const auto one = run_graph(cpu(), p, DType::f32, Rows::unaligned_views);
  omp_set_num_threads(3);
  const auto three = run_graph(cpu(), p, DType::f32, Rows::unaligned_views);
  omp_set_num_threads(threads);
  EXPECT_EQ(one, three);
}

// Frozen weight and constant z: only what is asked for is computed.
TEST(GatedRmsNorm, GradientOfOneInputOnly) {
  Context& ctx = cpu();
  const Problem p(cases()[4], DType::f32);
  const Shape shape = {p.c.tokens, p.channels};
  Graph g(ctx);
  const Var y = g.input(tensor_of(ctx, p.in[kY], shape, DType::f32));
  const Var z = g.constant(tensor_of(ctx, p.in[kZ], shape, DType::f32));
  const Weight weight{tensor_of(ctx, p.in[kWeight], {p.channels}, DType::f32)};
  const Var out = gated_rms_norm(g, y, z, weight, p.c.group, kEps);
  g.backward(out, tensor_of(ctx, p.dout, shape, DType::f32));
  EXPECT_LE(relative_error(y.grad().to_floats(ctx), backward(p, p.in, p.dout)[kY]), kGradientTolerance);
  EXPECT_FALSE(z.grad().defined());
}

TEST(GatedRmsNorm, BadInputsAreNamed) {
  Context& ctx = cpu();
  const auto message = [&](const Shape& z, const Shape& weight, int64_t group, DType dtype) {
    Graph g(ctx);
    try {
      gated_rms_norm(g, g.constant(Tensor::zeros(ctx, {2, 12}, dtype)), g.constant(Tensor::zeros(ctx, z, dtype)),
                     Weight{Tensor::zeros(ctx, weight, dtype)}, group, kEps);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(message({2, 12}, {12}, 4, DType::f32), "no error");
  EXPECT_EQ(message({3, 12}, {12}, 4, DType::f32), "[gated_rms_norm] z: found [3, 12], expected [2, 12]");
  EXPECT_EQ(message({2, 12}, {4}, 4, DType::f32), "[gated_rms_norm] weight: found [4], expected [12]");
  EXPECT_EQ(message({2, 12}, {12}, 5, DType::f32), "[gated_rms_norm] group: found 5, expected a divisor of 12");
  EXPECT_EQ(message({2, 12}, {12}, 4, DType::bf16), "[gated_rms_norm] on the CPU: found bf16, expected f32");
}

TEST(GatedRmsNormCuda, Float32MatchesOracle) { check_graph(*new_cuda(), DType::f32); }
TEST(GatedRmsNormCuda, Bf16MatchesOracle) { check_graph(*new_cuda(), DType::bf16); }
// More tokens than the device takes at once, so that warps walk: their rings go round, and the last turn is not full.
TEST(GatedRmsNormCuda, ManyTokens) {
  check_graph(*new_cuda(), DType::bf16, {{"one group", 8453, 1, 80}, {"two spans, the last part full", 2201, 11, 80}});
}
TEST(GatedRmsNormCuda, GradientsAccumulateFloat32) { check_accumulation(*new_cuda(), DType::f32); }
TEST(GatedRmsNormCuda, GradientsAccumulateBf16) { check_accumulation(*new_cuda(), DType::bf16); }

}  // namespace
}  // namespace matvlm::testing
