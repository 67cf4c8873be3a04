// Times of bf16 attention on a GPU, forward and backward:
//   bench_attention [1-6 | decode | all | variants | variants-1 ... variants-6] [repetitions]
// Every shape by our kernels, by the portable ones, and by cuDNN on the same inputs, as it comes and deterministic,
// with what it takes in times of ours. variants: every tile shape of attention_variants.h on the shapes of its width,
// with its difference from the portable kernels. Prints the median (timing.cuh), and TFLOP/s with causal products
// counted half and backward as 2.5 forwards.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "autograd/ops/attention.h"
#include "autograd/ops/attention_dnn.h"
#include "autograd/ops/attention_pages.h"
#include "autograd/seqlens.h"
#include "core/cuda_context.h"
#include "core/rng.h"
#include "core/tensor.h"
#include "tests/bench/attention_variants.h"
#include "tests/bench/timing.cuh"

namespace matvlm {
namespace {

struct BenchShape {
  const char* name;
  int64_t batch, heads, length, head_dim;
  bool causal;
};
constexpr BenchShape kShapes[] = {
    {"B 4, H 32, L 1428, P 80, causal", 4, 32, 1428, 80, true},
    {"B 2, H 32, L 4096, P 80, causal", 2, 32, 4096, 80, true},
    {"B 8, H 16, L 729, P 72, full", 8, 16, 729, 72, false},
    {"B 4, H 32, L 2048, P 64, causal", 4, 32, 2048, 64, true},
    {"B 4, H 16, L 4096, P 128, causal", 4, 16, 4096, 128, true},
    {"B 4, H 32, L 1024, P 80, causal", 4, 32, 1024, 80, true},  // the full-size step's
};

Tensor random_tensor(Context& ctx, const char* name, int64_t rows, int64_t cols) {
  const Rng rng{7, stream_of(name)};
  std::vector<float> values(static_cast<size_t>(rows * cols));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(rng.normal(i));
  return Tensor::from_floats(ctx, values, {rows, cols}, DType::bf16);
}

// Median milliseconds of a call. The inputs are larger than the cache, so one set of them is used over and over.
template <class F>
double call_ms(Context& ctx, int repetitions, F&& call) {
  constexpr int kCalls = 10;  // of a timing, back to back
  return bench::median_ms(ctx, kCalls, [&](int) { call(); }, {.timings = repetitions});
}

// |x - y| / |y| over all elements.
double difference(Context& ctx, const Tensor& x, const std::vector<float>& y) {
  const std::vector<float> values = x.to_floats(ctx);
  double sum = 0;
  double norm = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    const double d = static_cast<double>(values[i]) - static_cast<double>(y[i]);
    sum += d * d;
    norm += static_cast<double>(y[i]) * static_cast<double>(y[i]);
  }
  return std::sqrt(sum / norm);
}

int64_t rounded_width(int64_t head_dim) {
  return head_dim <= 64 ? 64 : head_dim <= 80 ? 80 : head_dim <= 96 ? 96 : 128;
}

class AttentionBench {
 public:
  AttentionBench(Context& ctx, const BenchShape& shape) : ctx_(ctx), shape_(shape) {
    const int64_t tokens = shape.batch * shape.length;
    const int64_t width = shape.heads * shape.head_dim;
    qkv_ = random_tensor(ctx, "qkv", tokens, 3 * width);
    grad_out_ = random_tensor(ctx, "grad", tokens, width);
    out_ = Tensor::empty(ctx, {tokens, width}, DType::bf16);
    gradients_ = Tensor::empty(ctx, {tokens, 3 * width}, DType::bf16);
    lse_ = Tensor::empty(ctx, {shape.heads, tokens}, DType::f32);
    delta_ = Tensor::empty(ctx, {shape.heads, tokens}, DType::f32);
    dnn_lse_ = Tensor::empty(ctx, {shape.heads, tokens}, DType::f32);
    std::vector<int64_t> cu;
    for (int64_t b = 0; b <= shape.batch; ++b) cu.push_back(b * shape.length);
    lens_ = make_seqlens(ctx, cu);
    const int64_t* device_cu = lens_->device_cu.data<int64_t>();
    AttentionForwardArgs<bf16, float>& f = args_.forward;
    f.shape = {shape.heads, shape.heads, shape.head_dim, shape.causal,
               1.0 / std::sqrt(static_cast<double>(shape.head_dim))};
    f.ranges = {shape.batch, shape.length, shape.length, device_cu, device_cu + 1, device_cu, device_cu + 1};
    f.tokens = tokens;
    f.kv_rows = tokens;
    f.q = qkv_.data<bf16>();
    f.k = f.q + width;
    f.v = f.k + width;
    f.out = out_.data<bf16>();
    f.q_stride = f.k_stride = f.v_stride = 3 * width;
    f.out_stride = width;
    f.lse = lse_.data<float>();
    args_.grad_out = grad_out_.data<bf16>();
    args_.grad_out_stride = width;
    args_.delta = delta_.data<float>();
    args_.dq = gradients_.data<bf16>();
    args_.dk = args_.dq + width;
    args_.dv = args_.dk + width;
    args_.dq_stride = args_.dk_stride = args_.dv_stride = 3 * width;
  }

  void run(int repetitions) {
    const auto ours = [&](bool portable) {
      args_.forward.portable = portable;
      const double forward = call_ms(ctx_, repetitions, [&] { attention_forward_cuda(ctx_, args_.forward); });
      return std::pair{forward, call_ms(ctx_, repetitions, [&] { attention_backward_cuda(ctx_, args_); })};
    };
    const auto chosen = ours(false);
    print("chosen", chosen, "");
    const std::vector<float> out = out_.to_floats(ctx_);
    const std::vector<float> gradients = gradients_.to_floats(ctx_);
    print("portable", ours(true), "");
    for (const bool deterministic : {false, true}) run_dnn(deterministic, repetitions, chosen, out, gradients);
  }

  void run_variants(int repetitions) {
    args_.forward.portable = true;
    attention_forward_cuda(ctx_, args_.forward);
    attention_backward_cuda(ctx_, args_);
    const int64_t width = shape_.heads * shape_.head_dim;
    const Tensor dq = gradients_.slice_cols(0, width);
    const Tensor dkv = gradients_.slice_cols(width, 3 * width);
    const std::vector<float> exact_out = out_.to_floats(ctx_);
    const std::vector<float> exact_dq = dq.to_floats(ctx_);
    const std::vector<float> exact_dkv = dkv.to_floats(ctx_);
    run_list("dq", dq_variants(), args_, dq, exact_dq, repetitions);
    run_list("dkv", dkv_variants(), args_, dkv, exact_dkv, repetitions);
    run_list("forward", forward_variants(), args_.forward, out_, exact_out, repetitions);
  }

 private:
  // Milliseconds of forward and backward.
  void print(const char* kind, const std::pair<double, double>& ms, const std::string& more) const {
    const auto n = static_cast<double>(shape_.length);
    const double flops =
        4.0 * static_cast<double>(shape_.batch * shape_.heads * shape_.head_dim) * n * n * (shape_.causal ? 0.5 : 1.0);
    std::printf("%-34s %-19s forward %.4f ms %6.1f TFLOP/s   backward %.4f ms %6.1f TFLOP/s%s\n", shape_.name, kind,
                ms.first, flops / ms.first * 1e-9, ms.second, 2.5 * flops / ms.second * 1e-9, more.c_str());
    std::fflush(stdout);
  }

  void run_dnn(bool deterministic, int repetitions, const std::pair<double, double>& ours,
               const std::vector<float>& out, const std::vector<float>& gradients) {
    const char* kind = deterministic ? "cuDNN deterministic" : "cuDNN";
    try {
      const std::shared_ptr<DnnAttention> dnn = make_dnn_attention(ctx_, deterministic);
      AttentionBackwardArgs<bf16, float> a = args_;
      a.forward.lse = dnn_lse_.data<float>();
      const double forward = call_ms(ctx_, repetitions, [&] { attention_forward_dnn(ctx_, *dnn, *lens_, a.forward); });
      const double backward = call_ms(ctx_, repetitions, [&] { attention_backward_dnn(ctx_, *dnn, *lens_, a); });
      const std::vector<float> first = gradients_.to_floats(ctx_);
      attention_backward_dnn(ctx_, *dnn, *lens_, a);
      char more[160];
      std::snprintf(more, sizeof(more), "   %.2f and %.2f of ours; differs by %.1e and %.1e; %s", forward / ours.first,
                    backward / ours.second, difference(ctx_, out_, out), difference(ctx_, gradients_, gradients),
                    gradients_.to_floats(ctx_) == first ? "same bits twice" : "other bits each time");
      print(kind, {forward, backward}, more);
    } catch (const Error& e) {
      std::printf("%-34s %-19s %s\n", shape_.name, kind, e.what());
    }
  }

  template <class Args>
  void run_list(const char* kind, const std::vector<AttentionVariant<Args>>& variants, const Args& args,
                const Tensor& result, const std::vector<float>& exact, int repetitions) {
    for (const AttentionVariant<Args>& variant : variants) {
      if (variant.width != rounded_width(shape_.head_dim)) continue;
      result.zero(ctx_);
      const double ms = call_ms(ctx_, repetitions, [&] { variant.launch(ctx_, args); });
      std::printf("%-34s %-7s %-46s %.4f ms  difference %.1e\n", shape_.name, kind, variant.name, ms,
                  difference(ctx_, result, exact));
      std::fflush(stdout);
    }
  }

  Context& ctx_;
  BenchShape shape_;
  Tensor qkv_, grad_out_, out_, gradients_, lse_, delta_, dnn_lse_;
  SeqlensPtr lens_;
  AttentionBackwardArgs<bf16, float> args_;
};

constexpr int64_t kBatch = 32, kHeads = 32, kKeys = 2048, kHeadDim = 80, kWidth = kHeads * kHeadDim;
constexpr int64_t kPageTokens = 64, kPages = kKeys / kPageTokens;

void print_decode(const char* kind, double ms, double copy_ms) {
  const double bytes = 4.0 * static_cast<double>(kBatch * kKeys * kWidth);
  std::printf("decode, B %d, H %d, %d keys, P %d, %-12s %.4f ms, %.0f GB/s (copy %.0f GB/s)\n",
              static_cast<int>(kBatch), static_cast<int>(kHeads), static_cast<int>(kKeys), static_cast<int>(kHeadDim),
              kind, ms, bytes / ms * 1e-6, bytes / copy_ms * 1e-6);
  std::fflush(stdout);
}

// The same through a table of pages, in an order that has nothing to do with memory's.
double paged_decode_ms(Context& ctx, int repetitions, AttentionForwardArgs<bf16, float> a) {
  const Tensor pool = Tensor::empty(ctx, {kBatch * kPages, 2 * kPageTokens * kWidth}, DType::bf16);
  bench::fill_random(ctx, pool);
  std::vector<int64_t> numbers;
  for (int64_t i = 0; i < kBatch * kPages; ++i) {
    const int64_t page = i * 389 % (kBatch * kPages);  // odd against a power of two: every page once
    numbers.push_back(static_cast<int64_t>(reinterpret_cast<uintptr_t>(pool.raw())) + page * pool.cols() * 2);
  }
  numbers.insert(numbers.end(), kBatch, 0);
  numbers.insert(numbers.end(), kBatch, kKeys);
  const Tensor device = Tensor::from(ctx, numbers, {static_cast<int64_t>(numbers.size())});
  const int64_t* table = device.data<int64_t>();
  a.k = a.v = nullptr;
  a.ranges.k_begin = table + kBatch * kPages;
  a.ranges.k_end = a.ranges.k_begin + kBatch;
  const AttentionPages pages{table, kPages, kPageTokens, 0, kPageTokens * kWidth};
  return call_ms(ctx, repetitions, [&] { decode_paged_cuda(ctx, a, pages); });
}

// One query a sequence against a cache: the time is that of reading keys and values, compared with a device copy.
void run_decode(Context& ctx, int repetitions) {
  const Tensor k = random_tensor(ctx, "k", kBatch * kKeys, kWidth);
  const Tensor v = k.clone(ctx);
  const Tensor q = random_tensor(ctx, "q", kBatch, kWidth);
  const Tensor out = Tensor::empty(ctx, {kBatch, kWidth}, DType::bf16);
  std::vector<int64_t> rows;
  for (int64_t b = 0; b <= kBatch; ++b) rows.push_back(b);
  for (int64_t b = 0; b <= kBatch; ++b) rows.push_back(b * kKeys);
  const Tensor device_rows = Tensor::from(ctx, rows, {static_cast<int64_t>(rows.size())});
  const int64_t* q_cu = device_rows.data<int64_t>();
  const int64_t* k_cu = q_cu + kBatch + 1;
  AttentionForwardArgs<bf16, float> a;
  a.shape = {kHeads, kHeads, kHeadDim, true, 1.0 / std::sqrt(static_cast<double>(kHeadDim))};
  a.ranges = {kBatch, 1, kKeys, q_cu, q_cu + 1, k_cu, k_cu + 1};
  a.tokens = kBatch;
  a.kv_rows = kBatch * kKeys;
  a.q = q.data<bf16>();
  a.k = k.data<bf16>();
  a.v = v.data<bf16>();
  a.out = out.data<bf16>();
  a.q_stride = a.k_stride = a.v_stride = a.out_stride = kWidth;
  const double ms = call_ms(ctx, repetitions, [&] { attention_forward_cuda(ctx, a); });
  const double copy_ms = call_ms(ctx, repetitions, [&] { v.copy_from(ctx, k); });  // reads and writes as many bytes
  print_decode("contiguous", ms, copy_ms);
  print_decode("pages of 64", paged_decode_ms(ctx, repetitions, a), copy_ms);
}

void run_shapes(const std::string& which, int repetitions) {
  const std::unique_ptr<Context> ctx = make_cuda_context(0);
  std::printf("%s\n", ctx->description().c_str());
  constexpr int kCount = static_cast<int>(std::size(kShapes));
  for (int i = 0; i < kCount; ++i) {
    const std::string number = std::to_string(i + 1);
    const bool variants = which == "variants" || which == "variants-" + number;
    if (which != "all" && !variants && which != number) continue;
    AttentionBench bench(*ctx, kShapes[i]);
    if (variants) {
      bench.run_variants(repetitions);
      continue;
    }
    bench.run(repetitions);
  }
  if (which == "all" || which == "decode") run_decode(*ctx, repetitions);
}

}  // namespace
}  // namespace matvlm

int main(int argc, char** argv) {
  const std::string which = argc > 1 ? argv[1] : "all";
  const int repetitions = argc > 2 ? std::atoi(argv[2]) : 30;
  const std::string number = which.rfind("variants-", 0) == 0 ? which.substr(9) : which;
  const bool known = which == "all" || which == "decode" || which == "variants" ||
                     (number.size() == 1 && number[0] >= '1' && number[0] <= '6');
  if (argc > 3 || !known || repetitions < 1) {
    std::fprintf(stderr,
                 "usage: bench_attention [1-6 | decode | all | variants | variants-1 ... 6] [repetitions >= 1]\n");
    return 2;
  }
  try {
    matvlm::run_shapes(which, repetitions);
  } catch (const matvlm::Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  return 0;
}
