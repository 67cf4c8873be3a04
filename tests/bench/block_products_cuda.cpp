// Times of a block's products with the elementwise work around them, in one kernel (core/gemm_fused.h) and in steps, at
// the full size (TinyLLaVA-Phi-2-SigLIP-3.1B, B 4, L 1024; SigLIP on 4 pictures), bf16; q, k, v in one product and in
// three; rotary in place.   bench_block_products
#include <cstdio>
#include <string>
#include <vector>

#include "autograd/ops/activation.h"
#include "autograd/ops/add.h"
#include "autograd/ops/rotary.h"
#include "core/gemm.h"
#include "core/gemm_fused.h"
#include "tests/bench/timing.cuh"

namespace matvlm::bench {
namespace {

struct BlockShape {
  const char* name;
  int64_t rows, width, inner;
};
constexpr BlockShape kShapes[] = {{"text", 4096, 2560, 10240}, {"vision", 2916, 1152, 4304}};
constexpr int kSets = 3;  // of buffers: more than the cache holds at these sizes

std::vector<Tensor> random(Context& ctx, const Shape& shape, double scale) {
  std::vector<Tensor> out;
  for (int i = 0; i < kSets; ++i) {
    out.push_back(Tensor::empty(ctx, shape, DType::bf16));
    fill_random(ctx, out.back(), scale);
  }
  return out;
}

void print(const char* shape, const char* what, double steps, double fused) {
  std::printf("%-8s %-34s %9.1f us %9.1f us\n", shape, what, steps * 1e3, fused * 1e3);
  std::fflush(stdout);
}

// What a timing calls must have been done by the library, not refused.
void require(bool done) { check(done, "cuBLASLt has no algorithm for this epilogue"); }

void time_mlp(Context& ctx, const BlockShape& s) {
  const auto at = [](int i) { return static_cast<size_t>(i); };
  const auto x = random(ctx, {s.rows, s.width}, 1.0), y = random(ctx, {s.rows, s.width}, 1.0);
  const auto h = random(ctx, {s.rows, s.width}, 1.0);
  const auto inner = random(ctx, {s.rows, s.inner}, 1.0), pre = random(ctx, {s.rows, s.inner}, 1.0);
  const auto w1 = random(ctx, {s.inner, s.width}, 0.02), w2 = random(ctx, {s.width, s.inner}, 0.02);
  const auto b1 = random(ctx, {s.inner}, 1.0), b2 = random(ctx, {s.width}, 1.0);
  const double fc1 = median_ms(ctx, kSets, [&](int i) { gemm_bias(ctx, x[at(i)], w1[at(i)], b1[at(i)], pre[at(i)]); });
  const double gelu =
      median_ms(ctx, kSets, [&](int i) { activation_into(ctx, Activation::gelu_tanh, pre[at(i)], inner[at(i)]); });
  print(s.name, "fc1, gelu", fc1 + gelu, median_ms(ctx, kSets, [&](int i) {
          require(fused_gelu(ctx, x[at(i)], w1[at(i)], b1[at(i)], inner[at(i)], {}));
        }));
  print(s.name, "fc1, gelu, pre-activation kept", fc1 + gelu, median_ms(ctx, kSets, [&](int i) {
          require(fused_gelu(ctx, x[at(i)], w1[at(i)], b1[at(i)], inner[at(i)], pre[at(i)]));
        }));
  const double dgrad =
      median_ms(ctx, kSets, [&](int i) { gemm(ctx, false, false, 1.0F, x[at(i)], w2[at(i)], 0.0F, inner[at(i)]); });
  const double slope = median_ms(ctx, kSets, [&](int i) {
    activation_gradient_into(ctx, Activation::gelu_tanh, inner[at(i)], pre[at(i)], inner[at(i)], false);
  });
  print(s.name, "gradient of fc2, of gelu", dgrad + slope, median_ms(ctx, kSets, [&](int i) {
          require(fused_gelu_gradient(ctx, x[at(i)], w2[at(i)], pre[at(i)], inner[at(i)]));
        }));
  const double fc2 =
      median_ms(ctx, kSets, [&](int i) { gemm_bias(ctx, inner[at(i)], w2[at(i)], b2[at(i)], y[at(i)]); });
  const double sum = median_ms(ctx, kSets, [&](int i) { add_into(ctx, h[at(i)], y[at(i)]); });
  print(s.name, "fc2, residual", fc2 + sum, median_ms(ctx, kSets, [&](int i) {
          require(fused_residual(ctx, inner[at(i)], w2[at(i)], b2[at(i)], h[at(i)], y[at(i)]));
        }));
}

void time_attention_input(Context& ctx, const BlockShape& s) {
  const auto at = [](int i) { return static_cast<size_t>(i); };
  const auto x = random(ctx, {s.rows, s.width}, 1.0);
  const auto w = random(ctx, {3 * s.width, s.width}, 0.02), b = random(ctx, {3 * s.width}, 1.0);
  const auto y = random(ctx, {s.rows, 3 * s.width}, 1.0);
  const auto part = [&](const Tensor& t, int64_t k) { return t.slice_rows(k * s.width, (k + 1) * s.width); };
  const double three = median_ms(ctx, kSets, [&](int i) {
    for (int64_t k = 0; k < 3; ++k) {
      gemm_bias(ctx, x[at(i)], part(w[at(i)], k), part(b[at(i)], k),
                y[at(i)].slice_cols(k * s.width, (k + 1) * s.width));
    }
  });
  print(s.name, "q, k, v: three products, one", three,
        median_ms(ctx, kSets, [&](int i) { gemm_bias(ctx, x[at(i)], w[at(i)], b[at(i)], y[at(i)]); }));
}

// Phi-2's: 32 heads of 80, of which 32 dims turn.
void time_rotary(Context& ctx) {
  constexpr int64_t kRows = 4096, kHeads = 32, kHeadDim = 80;
  const auto at = [](int i) { return static_cast<size_t>(i); };
  const auto qkv = random(ctx, {kRows, 3 * kHeads * kHeadDim}, 1.0);
  const auto q = random(ctx, {kRows, kHeads * kHeadDim}, 1.0);
  std::vector<int32_t> places(static_cast<size_t>(kRows));
  for (size_t i = 0; i < places.size(); ++i) places[i] = static_cast<int32_t>(i % 1024);
  const Tensor positions = Tensor::from(ctx, places, {kRows});
  std::vector<double> frequencies;
  for (int i = 0; i < 16; ++i) frequencies.push_back(1.0 / (1 + i));
  Graph g(ctx, false);
  const double apart = median_ms(ctx, kSets, [&](int i) {
    for (int k = 0; k < 2; ++k) rotary(g, g.constant(q[at(i)]), kHeads, kHeadDim, frequencies, positions);
  });
  print("text", "rotary: q, k apart, in place", apart, median_ms(ctx, kSets, [&](int i) {
          rotary_in_place(g, g.constant(qkv[at(i)]), 2 * kHeads, kHeadDim, frequencies, positions);
        }));
}

void run() {
  const auto ctx = make_cuda_context(0);
  std::printf("%s\n%-43s %12s %12s\n", ctx->description().c_str(), "", "in steps", "fused");
  for (const BlockShape& s : kShapes) {
    time_attention_input(*ctx, s);
    time_mlp(*ctx, s);
  }
  time_rotary(*ctx);
}

}  // namespace
}  // namespace matvlm::bench

int main() {
  try {
    matvlm::bench::run();
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_block_products: %s\n", e.what());
    return 1;
  }
}
