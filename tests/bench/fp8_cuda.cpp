// Times of the frozen matrices' products at the full size (TinyLLaVA-Phi-2-SigLIP-3.1B, B 4, L 1024; SigLIP on 4
// pictures), in bf16 and in fp8 with the conversion of the activations, and what they come to in a distillation step
// with 8 of 32 layers Mamba-2.   bench_fp8
#include <cstdio>
#include <string>
#include <vector>

#include "autograd/ops/quantize.h"
#include "core/gemm.h"
#include "core/gemm_fp8.h"
#include "tests/bench/timing.cuh"

namespace matvlm::bench {
namespace {

// y [rows, out] = x [rows, in] W^T, and how often a step makes such a product and converts such an input. Gradients of
// inputs are products of the same form with in and out exchanged.
struct ProductShape {
  const char* name;
  int64_t rows, in, out;
  int products, conversions;
};
constexpr ProductShape kShapes[] = {
    {"qkv", 4096, 2560, 7680, 56, 64},  // the converted input is fc1's too
    {"dense, its gradient", 4096, 2560, 2560, 80, 80},
    {"fc1, gradient of fc2", 4096, 2560, 10240, 96, 32},
    {"fc2, gradient of fc1", 4096, 10240, 2560, 96, 96},
    {"gradient of qkv", 4096, 7680, 2560, 24, 24},
    {"vision qkv", 2916, 1152, 3456, 26, 26},
    {"vision dense", 2916, 1152, 1152, 26, 26},
    {"vision fc1", 2916, 1152, 4304, 26, 26},
    {"vision fc2", 2916, 4304, 1152, 26, 26},
};

Tensor random(Context& ctx, Shape shape, double scale) {
  Tensor t = Tensor::empty(ctx, std::move(shape), DType::bf16);
  fill_random(ctx, t, scale);
  return t;
}

struct Times {
  double bf16 = 0, fast = 0, promoted = 0, convert = 0, convert_scaled = 0;  // ms
};

Times time_shape(Context& ctx, const ProductShape& s) {
  const int sets = buffer_sets((s.rows * s.in + s.in * s.out + s.rows * s.out) * 2, 8);
  std::vector<Tensor> x, w, y;
  std::vector<Fp8Matrix> x8, w8;
  for (int i = 0; i < sets; ++i) {
    x.push_back(random(ctx, {s.rows, s.in}, 1.0));
    w.push_back(random(ctx, {s.out, s.in}, 0.02));
    y.push_back(Tensor::empty(ctx, {s.rows, s.out}, DType::bf16));
    x8.push_back(quantize_rows(ctx, x.back()));
    w8.push_back(quantize_rows(ctx, w.back()));
  }
  const Tensor bias = random(ctx, {s.out}, 1.0);
  const Tensor factor = Tensor::from(ctx, std::vector<float>(static_cast<size_t>(s.in), 0.25F), {s.in});
  const auto at = [](int i) { return static_cast<size_t>(i); };
  Times t;
  t.bf16 = median_ms(ctx, sets, [&](int i) { gemm_bias(ctx, x[at(i)], w[at(i)], bias, y[at(i)]); });
  const auto fp8 = [&](Fp8Sums sums) {
    return median_ms(ctx, sets, [&](int i) { gemm_fp8(ctx, x8[at(i)], w8[at(i)], bias, 0.0F, y[at(i)], sums); });
  };
  t.fast = fp8(Fp8Sums::fast);
  t.promoted = fp8(Fp8Sums::promoted);
  t.convert = median_ms(ctx, sets, [&](int i) { quantize_rows(ctx, x[at(i)]); });
  t.convert_scaled = median_ms(ctx, sets, [&](int i) { quantize_rows(ctx, x[at(i)], factor); });
  return t;
}

void run() {
  const auto ctx = make_cuda_context(0);
  const std::string obstacle = fp8_obstacle(*ctx);
  check(obstacle.empty(), "found ", obstacle);
  std::printf(
      "%s\nms (TFLOP/s); conversion ms (GB/s) of the input, and with a factor per column\n%-22s %-18s %16s %16s %16s "
      "%16s %8s\n",
      ctx->description().c_str(), "", "rows, in, out", "bf16", "fp8 fast", "fp8 promoted", "conversion", "scaled");
  double bf16 = 0, fast = 0, promoted = 0, convert = 0;
  for (const ProductShape& s : kShapes) {
    const Times t = time_shape(*ctx, s);
    const double flops = 2.0 * static_cast<double>(s.rows * s.in * s.out);
    const auto rate = [&](double ms) { return flops / ms * 1e-9; };
    std::printf("%-22s %5lld %5lld %5lld  %8.4f (%5.0f) %8.4f (%5.0f) %8.4f (%5.0f) %8.4f (%5.0f) %8.4f\n", s.name,
                static_cast<long long>(s.rows), static_cast<long long>(s.in), static_cast<long long>(s.out), t.bf16,
                rate(t.bf16), t.fast, rate(t.fast), t.promoted, rate(t.promoted), t.convert,
                3.0 * static_cast<double>(s.rows * s.in) / t.convert * 1e-6, t.convert_scaled);
    std::fflush(stdout);
    bf16 += s.products * t.bf16;
    fast += s.products * t.fast;
    promoted += s.products * t.promoted;
    convert += s.conversions * t.convert;
  }
  std::printf("a step: bf16 %.1f ms; fp8 %.1f fast, %.1f promoted, and %.1f of conversions\n", bf16, fast, promoted,
              convert);
}

}  // namespace
}  // namespace matvlm::bench

int main() {
  try {
    matvlm::bench::run();
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_fp8: %s\n", e.what());
    return 1;
  }
}
