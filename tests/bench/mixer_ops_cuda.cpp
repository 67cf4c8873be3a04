// Times the mixers' ops that are bound by memory: causal convolution, gated RMSNorm, the SSD's decode step, and of
// attention the rotation of q and k and the backward's row sums. Prints for each the bytes that it must move, and the
// bandwidth that this comes to as a share of what a plain copy reaches.
//
// bench_mixer_ops           everything
// bench_mixer_ops step      the shapes of the full-size step (B 4, L 1024) in bf16 alone
#include <algorithm>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/ops/attention_device.h"
#include "autograd/ops/conv1d.h"
#include "autograd/ops/gated_rms_norm.h"
#include "autograd/ops/rotary.h"
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

// launch(args) runs the op.
template <class E, class Launch>
void bench_conv_pass(const BandwidthTable& bench, const ConvShape& s, const char* op, const std::string& shape,
                     bool backward, const Launch& launch) {
  constexpr auto kSize = static_cast<int64_t>(sizeof(E));
  const SeqlensPtr lens = equal_sequences(bench.ctx, s.batch, s.length);
  const int64_t matrix = lens->tokens() * s.channels * kSize;
  const int64_t weights = s.channels * 5;
  const bool decode = s.length == 1;
  const int64_t bytes = backward ? 3 * matrix + weights * (kSize + 8)  // weight gradients are added to
                                 : 2 * matrix + weights * kSize + (decode ? 2 * s.batch * 3 * s.channels * kSize : 0);
  const int sets = buffer_sets(bytes);
  std::vector<ConvSet<E>> all;
  for (int i = 0; i < sets; ++i) all.emplace_back(bench.ctx, s, *lens, backward, decode);
  bench.report(op, shape, kDType<E>, bytes, sets, [&](int i) { launch(all[static_cast<size_t>(i)].args); });
}

template <class E>
void bench_conv(const BandwidthTable& bench, const ConvShape& s) {
  const std::string shape = cat(s.name, ": T ", s.batch * s.length, " C ", s.channels);
  bench_conv_pass<E>(bench, s, s.length == 1 ? "conv1d decode" : "conv1d forward", shape, false,
                     [&](const auto& args) { conv1d_forward_cuda(bench.ctx, args); });
  if (s.length == 1) return;
  bench_conv_pass<E>(bench, s, "conv1d backward", shape, true,
                     [&](const auto& args) { conv1d_backward_cuda(bench.ctx, args); });
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

// launch(args) runs the op.
template <class E, class Launch>
void bench_norm_pass(const BandwidthTable& bench, const NormShape& s, const char* op, const std::string& shape,
                     bool backward, const Launch& launch) {
  constexpr auto kSize = static_cast<int64_t>(sizeof(E));
  const int64_t matrix = s.tokens * s.channels * kSize;
  const int64_t bytes = backward ? 5 * matrix + s.channels * (kSize + 8) : 3 * matrix + s.channels * kSize;
  const int sets = buffer_sets(bytes);
  std::vector<NormSet<E>> all;
  for (int i = 0; i < sets; ++i) all.emplace_back(bench.ctx, s, backward);
  bench.report(op, shape, kDType<E>, bytes, sets, [&](int i) { launch(all[static_cast<size_t>(i)].args); });
}

template <class E>
void bench_norm(const BandwidthTable& bench, const NormShape& s) {
  const std::string shape = cat(s.name, ": T ", s.tokens, " C ", s.channels, " P ", s.group);
  bench_norm_pass<E>(bench, s, "gated norm forward", shape, false,
                     [&](const auto& args) { gated_rms_norm_forward_cuda(bench.ctx, args); });
  bench_norm_pass<E>(bench, s, "gated norm backward", shape, true,
                     [&](const auto& args) { gated_rms_norm_backward_cuda(bench.ctx, args); });
}

// ---- Of attention. Q, k and v lie in one row; bytes of the rotation are the sectors that it touches.

// launch(args) runs the op on q and k of a joined projection.
template <class E, class Launch>
void bench_rotary(const BandwidthTable& bench, int64_t tokens, int64_t heads, int64_t head_dim,
                  const std::string& shape, const Launch& launch) {
  Context& ctx = bench.ctx;
  constexpr int64_t kRotated = 32;
  const int64_t width = heads * head_dim;
  const int64_t bytes = 2 * tokens * 2 * heads * kRotated * static_cast<int64_t>(sizeof(E));
  const int sets = buffer_sets(bytes);
  std::vector<Tensor> joined;
  for (int i = 0; i < sets; ++i) joined.push_back(random(ctx, {tokens, 3 * width}, kDType<E>));
  std::vector<int32_t> places;
  for (int64_t t = 0; t < tokens; ++t) places.push_back(static_cast<int32_t>(t % 1024));
  const Tensor positions = Tensor::from(ctx, places, {tokens});
  bench.report("rotary in place", shape, kDType<E>, bytes, sets, [&](int i) {
    RotaryArgs<E> a;
    a.tokens = tokens;
    a.heads = 2 * heads;
    a.head_dim = head_dim;
    a.rotary_dims = kRotated;
    a.theta = 10000;
    a.positions = positions.data<int32_t>();
    a.x = a.y = joined[static_cast<size_t>(i)].template data<E>();
    a.x_stride = a.y_stride = 3 * width;
    launch(a);
  });
}

template <class E>
void bench_attention_rows(const BandwidthTable& bench, int64_t tokens, int64_t heads, int64_t head_dim) {
  Context& ctx = bench.ctx;
  const std::string shape = cat("T ", tokens, " H ", heads, " P ", head_dim);
  bench_rotary<E>(bench, tokens, heads, head_dim, cat(shape, ", q and k, 32 dims"),
                  [&](const auto& args) { rotary_cuda(ctx, args); });
  const int64_t width = heads * head_dim;
  const int64_t bytes = 2 * tokens * width * static_cast<int64_t>(sizeof(E)) + tokens * heads * 4;
  const int sets = buffer_sets(bytes);
  std::vector<Tensor> out, grad_out;
  for (int i = 0; i < sets; ++i) {
    out.push_back(random(ctx, {tokens, width}, kDType<E>));
    grad_out.push_back(random(ctx, {tokens, width}, kDType<E>));
  }
  const Tensor delta = Tensor::zeros(ctx, {heads, tokens}, DType::f32);
  bench.report("attention delta", shape, kDType<E>, bytes, sets, [&](int i) {
    AttentionBackwardArgs<E, float> a;
    a.forward.shape.heads = a.forward.shape.kv_heads = heads;
    a.forward.shape.head_dim = head_dim;
    a.forward.tokens = tokens;
    a.forward.out = out[static_cast<size_t>(i)].template data<E>();
    a.grad_out = grad_out[static_cast<size_t>(i)].template data<E>();
    a.forward.out_stride = a.grad_out_stride = width;
    a.delta = delta.data<float>();
    attention_kernels::row_deltas(ctx, a);
  });
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

// The rows of the input projection: z, x B C, dt.
constexpr ConvShape kStepConv = {"step", 4, 1024, 7680, 10272, 2560};
constexpr NormShape kStepNorm = {"step", 4096, 2560, 80, 10272};

void bench_step_shapes(const BandwidthTable& bench) {
  bench_conv<bf16>(bench, kStepConv);
  bench_norm<bf16>(bench, kStepNorm);
  bench_attention_rows<bf16>(bench, 4096, 32, 80);
}

template <class E>
void bench_all(const BandwidthTable& bench) {
  for (const ConvShape& s : {kStepConv,
                             {"MaTVLM", 4, 1428, 7680, 10272, 2560},
                             {"MaTVLM", 2, 4096, 7680, 10272, 2560},
                             {"Mamba-2 2.7B", 4, 2048, 5376, 10576, 5120},
                             {"MaTVLM", 64, 1, 7680, 10272, 2560}}) {
    bench_conv<E>(bench, s);
  }
  for (const NormShape& s : {kStepNorm,
                             {"MaTVLM", 5712, 2560, 80, 10272},
                             {"MaTVLM", 8192, 2560, 80, 10272},
                             {"P 64", 8192, 5120, 64, 10576},
                             {"P 128", 8192, 4096, 128, 4096}}) {
    bench_norm<E>(bench, s);
  }
  bench_attention_rows<E>(bench, 4096, 32, 80);
  const SsdShape matvlm{32, 32, 32, 32, 80, 80};
  for (const StepShape& s : {StepShape{"MaTVLM", 64, 1, matvlm, false},
                             {"MaTVLM", 1, 1, matvlm, false},
                             {"MaTVLM", 64, 4, matvlm, false},
                             {"MaTVLM", 64, 4, matvlm, true},
                             {"2.7B", 64, 1, {80, 80, 1, 1, 64, 128}, false}}) {
    bench_step<E>(bench, s);
  }
}

int run(std::string_view what) {
  const auto ctx = make_cuda_context(0);
  const std::vector<CopyResult> copies = copy_bandwidths(*ctx);
  const BandwidthTable bench{*ctx, copies.front().gb_s, 18, 38};
  std::printf("%s\n", ctx->description().c_str());
  for (const CopyResult& c : copies) std::printf("copy: %.0f GB/s read and written (%s)\n", c.gb_s, c.name);
  std::printf("%-18s %-38s %-5s %9s %9s %8s %8s\n", "op", "shape", "dtype", "ms", "MB", "GB/s", "of copy");
  if (what == "step") {
    bench_step_shapes(bench);
  } else {
    check(what.empty(), "[bench_mixer_ops] found ", what, ", expected nothing or step");
    bench_all<bf16>(bench);
    bench_all<float>(bench);
  }
  return 0;
}

}  // namespace
}  // namespace matvlm::bench

int main(int argc, char** argv) {
  try {
    return matvlm::bench::run(argc > 1 ? argv[1] : "");
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
