// Times the mixer's ops that are bound by memory: causal convolution, gated RMSNorm, the SSD's decode step. Prints for
// each the bytes that it must move, and the bandwidth that this comes to as a share of what a plain copy reaches.
#include <cstdio>
#include <string>
#include <vector>

#include "autograd/ops/conv1d.h"
#include "autograd/ops/gated_rms_norm.h"
#include "autograd/ops/ssd_step.h"
#include "autograd/seqlens.h"
#include "tests/bench/bandwidth.cuh"
#include "tests/bench/copy.h"

namespace matvlm::bench {
namespace {

SeqlensPtr equal_sequences(Context& ctx, int64_t batch, int64_t length) {
  std::vector<int64_t> cu;
  for (int64_t b = 0; b <= batch; ++b) cu.push_back(b * length);
  return make_seqlens(ctx, cu);
}

// ---- Convolution. x and dx are column ranges of wider rows, as behind the input projection.

struct ConvShape {
  const char* name;
  int64_t batch, length, channels, row, column;  // columns [column, column + channels) of `row`
};

template <class E>
struct ConvSet {
  Tensor x, y, dy, dx, weight, bias, dweight, dbias, state;
  Conv1dArgs<E, float> args;

  ConvSet(Context& ctx, const ConvShape& s, const Seqlens& lens, bool backward, bool carried) {
    const int64_t tokens = lens.tokens();
    x = random(ctx, {tokens, s.row}, kDType<E>);
    weight = random(ctx, {s.channels, 4}, kDType<E>, 0.3);
    bias = random(ctx, {s.channels}, kDType<E>, 0.3);
    args.tokens = tokens;
    args.channels = s.channels;
    args.width = 4;
    args.batch = lens.batch();
    args.longest = lens.longest;
    args.cu = lens.device_cu.data<int64_t>();
    args.x = x.data<E>() + s.column;
    args.x_stride = s.row;
    args.weight = weight.data<E>();
    args.bias = bias.data<E>();
    if (backward) {
      dy = random(ctx, {tokens, s.channels}, kDType<E>);
      dx = Tensor::zeros(ctx, {tokens, s.row}, kDType<E>);
      dweight = Tensor::zeros(ctx, {s.channels, 4}, DType::f32);
      dbias = Tensor::zeros(ctx, {s.channels}, DType::f32);
      args.dy = dy.data<E>();
      args.dy_stride = s.channels;
      args.dx = dx.data<E>() + s.column;
      args.dx_stride = s.row;
      args.dweight = dweight.data<float>();
      args.dbias = dbias.data<float>();
    } else {
      y = Tensor::zeros(ctx, {tokens, s.channels}, kDType<E>);
      args.y = y.data<E>();
      args.y_stride = s.channels;
    }
    if (carried) {
      state = random(ctx, {s.batch, 3, s.channels}, kDType<E>);
      args.initial = state.data<E>();
      args.final_state = state.data<E>();
    }
  }
};

template <class E>
void bench_conv(const BandwidthTable& bench, const ConvShape& s) {
  Context& ctx = bench.ctx;
  constexpr auto kSize = static_cast<int64_t>(sizeof(E));
  const SeqlensPtr lens = equal_sequences(ctx, s.batch, s.length);
  const int64_t matrix = lens->tokens() * s.channels * kSize;
  const int64_t weights = s.channels * 5;
  const std::string shape = cat(s.name, ": T ", lens->tokens(), " C ", s.channels);
  const auto run = [&](const char* op, bool backward, bool carried, int64_t bytes) {
    const int sets = buffer_sets(bytes);
    std::vector<ConvSet<E>> all;
    for (int i = 0; i < sets; ++i) all.emplace_back(ctx, s, *lens, backward, carried);
    bench.report(op, shape, kDType<E>, bytes, sets, [&](int i) {
      const auto& args = all[static_cast<size_t>(i)].args;
      backward ? conv1d_backward_cuda(ctx, args) : conv1d_forward_cuda(ctx, args);
    });
  };
  if (s.length == 1) {
    run("conv1d decode", false, true, 2 * matrix + 2 * s.batch * 3 * s.channels * kSize + weights * kSize);
    return;
  }
  run("conv1d forward", false, false, 2 * matrix + weights * kSize);
  run("conv1d backward", true, false, 3 * matrix + weights * (kSize + 8));  // weight gradients are added to
}

// ---- Gated RMSNorm. z and dz are column ranges of wider rows.

struct NormShape {
  const char* name;
  int64_t tokens, channels, group, row;
};

template <class E>
struct NormSet {
  Tensor y, z, out, dout, dy, dz, weight, dweight;
  GatedRmsNormArgs<E, float> args;

  NormSet(Context& ctx, const NormShape& s, bool backward) {
    const Shape shape = {s.tokens, s.channels};
    y = random(ctx, shape, kDType<E>);
    z = random(ctx, {s.tokens, s.row}, kDType<E>);
    weight = random(ctx, {s.channels}, kDType<E>);
    args.tokens = s.tokens;
    args.channels = s.channels;
    args.group = s.group;
    args.eps = 1e-5;
    args.y = y.data<E>();
    args.z = z.data<E>();
    args.weight = weight.data<E>();
    args.y_stride = s.channels;
    args.z_stride = s.row;
    if (backward) {
      dout = random(ctx, shape, kDType<E>);
      dy = Tensor::zeros(ctx, shape, kDType<E>);
      dz = Tensor::zeros(ctx, {s.tokens, s.row}, kDType<E>);
      dweight = Tensor::zeros(ctx, {s.channels}, DType::f32);
      args.dout = dout.data<E>();
      args.dy = dy.data<E>();
      args.dz = dz.data<E>();
      args.dweight = dweight.data<float>();
      args.dout_stride = args.dy_stride = s.channels;
      args.dz_stride = s.row;
    } else {
      out = Tensor::zeros(ctx, shape, kDType<E>);
      args.out = out.data<E>();
      args.out_stride = s.channels;
    }
  }
};

template <class E>
void bench_norm(const BandwidthTable& bench, const NormShape& s) {
  Context& ctx = bench.ctx;
  constexpr auto kSize = static_cast<int64_t>(sizeof(E));
  const int64_t matrix = s.tokens * s.channels * kSize;
  const std::string shape = cat(s.name, ": T ", s.tokens, " C ", s.channels, " P ", s.group);
  for (const bool backward : {false, true}) {
    const int64_t bytes = backward ? 5 * matrix + s.channels * (kSize + 8) : 3 * matrix + s.channels * kSize;
    const int sets = buffer_sets(bytes);
    std::vector<NormSet<E>> all;
    for (int i = 0; i < sets; ++i) all.emplace_back(ctx, s, backward);
    bench.report(backward ? "gated norm backward" : "gated norm forward", shape, kDType<E>, bytes, sets, [&](int i) {
      const auto& args = all[static_cast<size_t>(i)].args;
      backward ? gated_rms_norm_backward_cuda(ctx, args) : gated_rms_norm_forward_cuda(ctx, args);
    });
  }
}

// ---- Decode step of the SSD, states in place.

struct StepShape {
  const char* name;
  int64_t batch, length;
  SsdShape shape;
  bool every;
};

template <class E>
struct StepSet {
  Tensor x, b, c, dt, y, state, every, a_log, d, dt_bias;
  SsdArgs<E, float> args;

  StepSet(Context& ctx, const StepShape& step, const Seqlens& lens) {
    const SsdShape& s = step.shape;
    const int64_t tokens = lens.tokens();
    x = random(ctx, {tokens, s.x_groups * s.head_dim}, kDType<E>);
    b = random(ctx, {tokens, s.b_groups * s.state}, kDType<E>);
    c = random(ctx, {tokens, s.c_groups * s.state}, kDType<E>);
    dt = random(ctx, {tokens, s.heads}, kDType<E>);
    y = Tensor::zeros(ctx, {tokens, s.heads * s.head_dim}, kDType<E>);
    state = random(ctx, {step.batch, s.heads, s.head_dim, s.state}, DType::f32);
    if (step.every) every = Tensor::zeros(ctx, {tokens, s.heads, s.head_dim, s.state}, DType::f32);
    a_log = random(ctx, {s.heads}, DType::f32);
    d = random(ctx, {s.heads}, DType::f32);
    dt_bias = random(ctx, {s.heads}, DType::f32);
    args.shape = s;
    args.tokens = tokens;
    args.batch = step.batch;
    args.longest = lens.longest;
    args.cu = lens.device_cu.data<int64_t>();
    args.x = x.data<E>();
    args.b = b.data<E>();
    args.c = c.data<E>();
    args.dt = dt.data<E>();
    args.y = y.data<E>();
    args.x_stride = x.cols();
    args.b_stride = b.cols();
    args.c_stride = c.cols();
    args.dt_stride = dt.cols();
    args.y_stride = y.cols();
    args.a_log = a_log.data<float>();
    args.d = d.data<float>();
    args.dt_bias = dt_bias.data<float>();
    args.initial = args.final_state = state.data<float>();
    if (step.every) args.every = every.data<float>();
  }
};

template <class E>
void bench_step(const BandwidthTable& bench, const StepShape& step) {
  Context& ctx = bench.ctx;
  const SsdShape& s = step.shape;
  const SeqlensPtr lens = equal_sequences(ctx, step.batch, step.length);
  const int64_t states = s.heads * s.head_dim * s.state * 4;
  const int64_t row = (s.x_groups + s.heads) * s.head_dim + (s.b_groups + s.c_groups) * s.state + s.heads;
  const int64_t bytes = 2 * step.batch * states + lens->tokens() * row * static_cast<int64_t>(sizeof(E)) +
                        (step.every ? lens->tokens() * states : 0);
  const int sets = buffer_sets(bytes);
  std::vector<StepSet<E>> all;
  for (int i = 0; i < sets; ++i) all.emplace_back(ctx, step, *lens);
  const std::string shape = cat(step.name, ": B ", step.batch, " x ", step.length, " H ", s.heads, " P ", s.head_dim,
                                " N ", s.state, step.every ? " every" : "");
  bench.report("ssd step", shape, kDType<E>, bytes, sets,
               [&](int i) { ssd_step_cuda(ctx, all[static_cast<size_t>(i)].args); });
}

template <class E>
void bench_all(const BandwidthTable& bench) {
  // The rows of the input projection: z, x B C, dt.
  for (const ConvShape& s : {ConvShape{"MaTVLM", 4, 1428, 7680, 10272, 2560},
                             {"MaTVLM", 2, 4096, 7680, 10272, 2560},
                             {"Mamba-2 2.7B", 4, 2048, 5376, 10576, 5120},
                             {"MaTVLM", 64, 1, 7680, 10272, 2560}}) {
    bench_conv<E>(bench, s);
  }
  for (const NormShape& s : {NormShape{"MaTVLM", 5712, 2560, 80, 10272},
                             {"MaTVLM", 8192, 2560, 80, 10272},
                             {"P 64", 8192, 5120, 64, 10576},
                             {"P 128", 8192, 4096, 128, 4096}}) {
    bench_norm<E>(bench, s);
  }
  const SsdShape matvlm{32, 32, 32, 32, 80, 80};
  for (const StepShape& s : {StepShape{"MaTVLM", 64, 1, matvlm, false},
                             {"MaTVLM", 1, 1, matvlm, false},
                             {"MaTVLM", 64, 4, matvlm, false},
                             {"MaTVLM", 64, 4, matvlm, true},
                             {"2.7B", 64, 1, {80, 80, 1, 1, 64, 128}, false}}) {
    bench_step<E>(bench, s);
  }
}

int run() {
  const auto ctx = make_cuda_context(0);
  const std::vector<CopyResult> copies = copy_bandwidths(*ctx);
  const BandwidthTable bench{*ctx, copies.front().gb_s, 18, 38};
  std::printf("%s\n", ctx->description().c_str());
  for (const CopyResult& c : copies) std::printf("copy: %.0f GB/s read and written (%s)\n", c.gb_s, c.name);
  std::printf("%-18s %-38s %-5s %9s %9s %8s %8s\n", "op", "shape", "dtype", "ms", "MB", "GB/s", "of copy");
  bench_all<bf16>(bench);
  bench_all<float>(bench);
  return 0;
}

}  // namespace
}  // namespace matvlm::bench

int main() {
  try {
    return matvlm::bench::run();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
