// Times the step's ops that are bound by memory, at the sizes of the full model (B 4, L 1024; vision 4 x 729): norms,
// activations, sums, rotary positions, both losses' row kernels, gradient norm and AdamW. Prints the bytes that each
// must move and the bandwidth that this comes to as a share of what a plain copy reaches.
#include <cstdio>
#include <string>
#include <vector>

#include "autograd/ops/activation.h"
#include "autograd/ops/adamw.h"
#include "autograd/ops/add_device.h"
#include "autograd/ops/head_loss.h"
#include "autograd/ops/layer_loss.h"
#include "autograd/ops/layer_norm.h"
#include "autograd/ops/reduce_device.h"
#include "autograd/ops/rms_norm.h"
#include "autograd/ops/rotary.h"
#include "tests/bench/bandwidth.cuh"
#include "tests/bench/copy.h"

namespace matvlm::bench {
namespace {

// Matrices of one shape, one of each name for every buffer set.
template <class T>
struct Sets {
  std::vector<std::vector<Tensor>> tensors;
  int count;

  Sets(Context& ctx, int64_t rows, int64_t cols, int matrices)
      : count(buffer_sets(rows * cols * matrices * static_cast<int64_t>(sizeof(T)))) {
    for (int i = 0; i < count; ++i) {
      tensors.emplace_back();
      for (int m = 0; m < matrices; ++m) tensors.back().push_back(random(ctx, {rows, cols}, kDType<T>));
    }
  }
  T* at(int set, int matrix) const { return tensors[static_cast<size_t>(set)][static_cast<size_t>(matrix)].data<T>(); }
};

std::string size_of(int64_t rows, int64_t cols) { return cat(rows, " x ", cols); }

template <class T>
void bench_norms(const BandwidthTable& bench, int64_t rows, int64_t cols) {
  Context& ctx = bench.ctx;
  const auto matrix = rows * cols * static_cast<int64_t>(sizeof(T));
  const std::string shape = size_of(rows, cols);
  const Sets<T> sets(ctx, rows, cols, 5);
  const Tensor w = random(ctx, {cols}, kDType<T>), b = random(ctx, {cols}, kDType<T>);
  const Tensor mean = random(ctx, {rows}, DType::f32), inv = random(ctx, {rows}, DType::f32);
  const auto forward = [&](int i) {
    return LayerNormForward<T, float>{.rows = rows,
                                      .cols = cols,
                                      .x = sets.at(i, 0),
                                      .x_stride = cols,
                                      .w = w.data<T>(),
                                      .b = b.data<T>(),
                                      .eps = 1e-5,
                                      .y = sets.at(i, 1),
                                      .y_stride = cols,
                                      .mean = mean.data<float>(),
                                      .inv_std = inv.data<float>()};
  };
  bench.report("layer_norm", shape, kDType<T>, 2 * matrix, sets.count,
               [&](int i) { layer_norm_forward_cuda<T>(ctx, forward(i)); });
  bench.report("layer_norm of 3 terms", shape, kDType<T>, 5 * matrix, sets.count, [&](int i) {
    auto args = forward(i);
    args.sum = {.addends = 2,
                .addend = {sets.at(i, 2), sets.at(i, 3)},
                .stride = {cols, cols},
                .sum = sets.at(i, 4),
                .sum_stride = cols};
    layer_norm_forward_cuda<T>(ctx, args);
  });
  bench.report("rms_norm", shape, kDType<T>, 2 * matrix, sets.count, [&](int i) {
    rms_norm_forward_cuda<T>(ctx, {.rows = rows,
                                   .cols = cols,
                                   .x = sets.at(i, 0),
                                   .x_stride = cols,
                                   .w = w.data<T>(),
                                   .eps = 1e-5,
                                   .y = sets.at(i, 1),
                                   .y_stride = cols,
                                   .inv_rms = inv.data<float>()});
  });
  for (const bool accumulate : {false, true}) {
    bench.report(accumulate ? "layer_norm backward +=" : "layer_norm backward", shape, kDType<T>,
                 (accumulate ? 4 : 3) * matrix, sets.count, [&](int i) {
                   layer_norm_backward_cuda<T>(ctx, {.rows = rows,
                                                     .cols = cols,
                                                     .dy = sets.at(i, 0),
                                                     .dy_stride = cols,
                                                     .x = sets.at(i, 1),
                                                     .x_stride = cols,
                                                     .w = w.data<T>(),
                                                     .mean = mean.data<float>(),
                                                     .inv_std = inv.data<float>(),
                                                     .dx = sets.at(i, 2),
                                                     .dx_stride = cols,
                                                     .accumulate = accumulate});
                 });
  }
}

template <class T>
void bench_maps(const BandwidthTable& bench) {
  Context& ctx = bench.ctx;
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  {
    const int64_t rows = 4096, cols = 10240;
    const Sets<T> sets(ctx, rows, cols, 3);
    bench.report("gelu_tanh", size_of(rows, cols), kDType<T>, 2 * rows * cols * kSize, sets.count, [&](int i) {
      activation_forward_cuda<T>(ctx, {rows, cols, Activation::gelu_tanh, sets.at(i, 0), cols, sets.at(i, 1), cols});
    });
    bench.report("gelu_tanh backward", size_of(rows, cols), kDType<T>, 3 * rows * cols * kSize, sets.count, [&](int i) {
      activation_backward_cuda<T>(ctx, {rows, cols, Activation::gelu_tanh, sets.at(i, 0), cols, sets.at(i, 1), cols,
                                        sets.at(i, 2), cols, false});
    });
  }
  const int64_t rows = 4096, cols = 2560;
  const Sets<T> sets(ctx, rows, cols, 4);
  const auto add_terms = [&](int i, int count, bool accumulate) {
    AddDeviceArgs a;
    a.rows = rows;
    a.cols = cols;
    a.count = count;
    for (int k = 0; k < count; ++k) {
      a.terms[k] = sets.at(i, k);
      a.strides[k] = cols;
    }
    a.dst = sets.at(i, 3);
    a.dst_stride = cols;
    a.accumulate = accumulate;
    a.dtype = kDType<T>;
    add_cuda(ctx, a);
  };
  bench.report("add of 3", size_of(rows, cols), kDType<T>, 4 * rows * cols * kSize, sets.count,
               [&](int i) { add_terms(i, 3, false); });
  bench.report("add into", size_of(rows, cols), kDType<T>, 3 * rows * cols * kSize, sets.count,
               [&](int i) { add_terms(i, 1, true); });
  std::vector<int32_t> positions;
  for (int64_t t = 0; t < rows; ++t) positions.push_back(static_cast<int32_t>(t % 1024));
  const Tensor device_positions = Tensor::from(ctx, positions, {rows});
  bench.report("rotary, 32 of 80", size_of(rows, cols), kDType<T>, 2 * rows * cols * kSize, sets.count, [&](int i) {
    RotaryArgs<T> a;
    a.tokens = rows;
    a.heads = 32;
    a.head_dim = 80;
    a.rotary_dims = 32;
    a.theta = 10000;
    a.positions = device_positions.data<int32_t>();
    a.x = sets.at(i, 0);
    a.x_stride = cols;
    a.y = sets.at(i, 1);
    a.y_stride = cols;
    rotary_cuda(ctx, a);
  });
}

template <class T>
void bench_layer_rows(const BandwidthTable& bench) {
  Context& ctx = bench.ctx;
  const int64_t rows = 4096, cols = 2560;
  const Sets<T> sets(ctx, rows, cols, 3);
  const Tensor coefficient = Tensor::from(ctx, std::vector<float>(static_cast<size_t>(rows), 1.0F), {rows});
  const Tensor loss = Tensor::empty(ctx, {rows}, DType::f64);
  for (const LayerKind kind : {LayerKind::l2, LayerKind::cosine}) {
    bench.report(kind == LayerKind::l2 ? "layer loss l2" : "layer loss cosine", size_of(rows, cols), kDType<T>,
                 3 * rows * cols * static_cast<int64_t>(sizeof(T)), sets.count, [&](int i) {
                   LayerRows<T> a;
                   a.rows = rows;
                   a.width = cols;
                   a.kind = kind;
                   a.student = sets.at(i, 0);
                   a.teacher = sets.at(i, 1);
                   a.student_stride = a.teacher_stride = cols;
                   a.coefficient = coefficient.data<float>();
                   a.grad = sets.at(i, 2);
                   layer_rows_cuda<T>(ctx, a, loss.data<double>());
                 });
  }
}

// One tile, as the fused head has it: float32 logits in, the gradient in G out.
template <class G>
void bench_head_rows(const BandwidthTable& bench, int64_t rows, int64_t vocab) {
  Context& ctx = bench.ctx;
  const int64_t bytes = rows * vocab * (8 + static_cast<int64_t>(sizeof(G)));
  const int sets = buffer_sets(bytes);
  std::vector<Tensor> student, teacher, grad;
  for (int i = 0; i < sets; ++i) {
    student.push_back(random(ctx, {rows, vocab}, DType::f32, 2.0));
    teacher.push_back(random(ctx, {rows, vocab}, DType::f32, 2.0));
    grad.push_back(Tensor::empty(ctx, {rows, vocab}, kDType<G>));
  }
  const auto n = static_cast<size_t>(rows);
  const Tensor weight = Tensor::from(ctx, std::vector<float>(n, 1.0F), {rows});
  const Tensor target = Tensor::from(ctx, std::vector<int32_t>(n, 7), {rows});
  const Tensor losses = Tensor::empty(ctx, {2, rows}, DType::f64);
  const Tensor marks = Tensor::empty(ctx, {2, rows}, DType::i32);
  struct Case {
    const char* name;
    LogitKind kind;
    bool ce;
  };
  for (const Case& c : {Case{"head rows kl", LogitKind::kl, false},
                        {"head rows kl + ce", LogitKind::kl, true},
                        {"head rows reverse_kl", LogitKind::reverse_kl, false},
                        {"head rows jsd", LogitKind::jsd, false},
                        {"head rows logit_l2", LogitKind::logit_l2, false},
                        {"head rows ce", LogitKind::none, true}}) {
    for (const bool portable : {false, true}) {
      const int64_t moved = c.kind == LogitKind::none ? bytes - rows * vocab * 4 : bytes;
      bench.report(cat(c.name, portable ? ", portable" : "").c_str(), size_of(rows, vocab), kDType<G>, moved, sets,
                   [&](int i) {
                     const auto set = static_cast<size_t>(i);
                     HeadRows<float, G> a;
                     a.rows = rows;
                     a.vocab = vocab;
                     a.kind = c.kind;
                     a.student = student[set].template data<float>();
                     a.teacher = teacher[set].template data<float>();
                     a.logit_coefficient = c.kind == LogitKind::none ? nullptr : weight.data<float>();
                     a.ce_coefficient = c.ce ? weight.data<float>() : nullptr;
                     a.target = target.data<int32_t>();
                     a.grad = grad[set].template data<G>();
                     a.logit_loss = losses.data<double>();
                     a.ce_loss = losses.data<double>() + rows;
                     a.agree = marks.data<int32_t>();
                     a.correct = marks.data<int32_t>() + rows;
                     a.portable = portable;
                     head_rows_cuda(ctx, a);
                   });
    }
  }
}

// A tenth of the published run's 272.6 M trained elements: enough to leave the cache behind.
void bench_optimizer(const BandwidthTable& bench) {
  Context& ctx = bench.ctx;
  ParameterStore store;
  for (int i = 0; i < 2; ++i) {
    store.declare(cat("layer", i, ".in_proj.weight"), {10272, 2560});
    store.declare(cat("layer", i, ".norm.weight"), {2560});
    store.declare(cat("layer", i, ".out_proj.weight"), {2560, 2560});
  }
  store.allocate(ctx, DType::bf16);
  const int64_t n = store.master().numel();
  fill_random(ctx, store.grad());
  const AdamWStep step{.lr = 1e-4, .weight_decay = 0.01, .bias_correction1 = 0.1, .bias_correction2 = 0.05};
  const std::string shape = cat(n / 1000000, " M elements");
  // The segments are uploaded by every call; a captured graph keeps what it sees, which does not change.
  bench.report("adamw", shape, DType::bf16, 113 * n / 4, 1, [&](int) { adamw(ctx, store, step); });
  const int64_t blocks = (n + kSquaresBlock - 1) / kSquaresBlock;
  const Tensor scratch = Tensor::empty(ctx, {blocks + 1}, DType::f64);
  bench.report("sum of squares", shape, DType::f32, 4 * n, 1, [&](int) {
    sum_squares_cuda(ctx, n, store.grad().data<float>(), scratch.data<double>(), scratch.data<double>() + blocks);
  });
}

int run() {
  const auto ctx = make_cuda_context(0);
  const std::vector<CopyResult> copies = copy_bandwidths(*ctx);
  const BandwidthTable bench{*ctx, copies.front().gb_s, 24, 22};
  std::printf("%s\n", ctx->description().c_str());
  for (const CopyResult& c : copies) std::printf("copy: %.0f GB/s read and written (%s)\n", c.gb_s, c.name);
  std::printf("%-24s %-22s %-5s %9s %9s %8s %8s\n", "op", "shape", "dtype", "ms", "MB", "GB/s", "of copy");
  bench_head_rows<bf16>(bench, 256, 51200);
  bench_head_rows<float>(bench, 256, 51200);
  bench_norms<bf16>(bench, 4096, 2560);
  bench_norms<bf16>(bench, 2916, 1152);
  bench_norms<float>(bench, 4096, 2560);
  bench_maps<bf16>(bench);
  bench_maps<float>(bench);
  bench_layer_rows<bf16>(bench);
  bench_layer_rows<float>(bench);
  bench_optimizer(bench);
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
