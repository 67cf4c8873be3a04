// Gate and normalise (the last step of a Mamba-2 mixer before its output projection): u = y * silu(z), then RMSNorm
// over each group of P channels, u / sqrt(mean(u^2) + eps) * weight. T tokens, C = G*P channels in G groups of P.
#pragma once

#include "autograd/graph.h"

namespace matvlm {

// y, z [T, C] (any row strides), weight [C], one dtype, f32 or bf16 -> [T, C]. `group` is P and divides C. Statistics
// are float32. Error on other shapes, dtypes or devices.
Var gated_rms_norm(Graph& g, const Var& y, const Var& z, const Weight& weight, int64_t group, double eps);

// Raw op. Element type E, and F for statistics and the weight gradient (E = F on the CPU, F = float on the GPU).
// Strides in elements.
template <class E, class F = E>
struct GatedRmsNormArgs {
  int64_t tokens = 0, channels = 0, group = 0;
  double eps = 0;
  const E *y = nullptr, *z = nullptr;  // [T, C]
  int64_t y_stride = 0, z_stride = 0;
  const E* weight = nullptr;  // [C]
  // Forward.
  E* out = nullptr;  // [T, C]
  int64_t out_stride = 0;
  // Backward. Null = not wanted.
  const E* dout = nullptr;  // [T, C]
  int64_t dout_stride = 0;
  E *dy = nullptr, *dz = nullptr;  // [T, C]
  int64_t dy_stride = 0, dz_stride = 0;
  bool dy_accumulate = false, dz_accumulate = false;
  F* dweight = nullptr;  // [C]; added into
};

// GPU launchers for float and bf16 (gated_rms_norm.cu). They take what scratch they need from the context's allocator.
template <class E>
void gated_rms_norm_forward_cuda(Context& ctx, const GatedRmsNormArgs<E, float>& args);
template <class E>
void gated_rms_norm_backward_cuda(Context& ctx, const GatedRmsNormArgs<E, float>& args);

}  // namespace matvlm
