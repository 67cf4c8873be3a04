// CPU kernels of the gated RMSNorm, templated on the scalar. Weight gradients: one partial sum per block of tokens,
// then an ordered sum over blocks, so they do not depend on the threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "autograd/ops/gated_rms_norm.h"
#include "autograd/ops/lanes.h"

namespace matvlm {
namespace gated_rms_norm_cpu {

constexpr int64_t kBlockTokens = 64;

// u = y * silu(z) of one group into `u`, which is padded with zeros to whole lanes; returns 1 / sqrt(mean(u^2) + eps).
template <class S>
S gate(const GatedRmsNormArgs<S>& a, const S* y, const S* z, S* u) {
#pragma omp simd
  for (int64_t i = 0; i < a.group; ++i) u[i] = y[i] * z[i] * simd_sigmoid(z[i]);
  Lanes<S> squares{};
  for (int64_t i = 0; i < a.group; i += kLanes) squares += lanes_at(u + i) * lanes_at(u + i);
  return S(1) / scalar_sqrt(sum_lanes<S>(squares) / S(static_cast<double>(a.group)) + S(a.eps));
}

template <class S>
void forward_token(const GatedRmsNormArgs<S>& a, int64_t t, S* u) {
  for (int64_t c = 0; c < a.channels; c += a.group) {
    const S r = gate(a, a.y + t * a.y_stride + c, a.z + t * a.z_stride + c, u);
    S* out = a.out + t * a.out_stride + c;
    const S* weight = a.weight + c;
#pragma omp simd
    for (int64_t i = 0; i < a.group; ++i) out[i] = u[i] * r * weight[i];
  }
}

// One group of one token. u and du: buffers padded with zeros. dweight: the block's partial sums of this group, or
// null.
template <class S>
void backward_group(const GatedRmsNormArgs<S>& a, int64_t t, int64_t c, S* u, S* du, S* dweight) {
  const S* y = a.y + t * a.y_stride + c;
  const S* z = a.z + t * a.z_stride + c;
  const S* dout = a.dout + t * a.dout_stride + c;
  const S* weight = a.weight + c;
  const S r = gate(a, y, z, u);
  if (dweight != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < a.group; ++i) dweight[i] += dout[i] * u[i] * r;
  }
  if (a.dy == nullptr && a.dz == nullptr) return;
#pragma omp simd
  for (int64_t i = 0; i < a.group; ++i) du[i] = dout[i] * weight[i];
  Lanes<S> products{};
  for (int64_t i = 0; i < a.group; i += kLanes) products += lanes_at(du + i) * lanes_at(u + i);
  const S common = r * r * r * sum_lanes<S>(products) / S(static_cast<double>(a.group));
#pragma omp simd
  for (int64_t i = 0; i < a.group; ++i) du[i] = r * du[i] - common * u[i];
  if (a.dy != nullptr) {
    S* dy = a.dy + t * a.dy_stride + c;
    if (!a.dy_accumulate) std::fill_n(dy, a.group, S(0));
#pragma omp simd
    for (int64_t i = 0; i < a.group; ++i) dy[i] += du[i] * z[i] * simd_sigmoid(z[i]);
  }
  if (a.dz != nullptr) {
    S* dz = a.dz + t * a.dz_stride + c;
    if (!a.dz_accumulate) std::fill_n(dz, a.group, S(0));
#pragma omp simd
    for (int64_t i = 0; i < a.group; ++i) {
      const S s = simd_sigmoid(z[i]);
      dz[i] += du[i] * y[i] * s * (S(1) + z[i] * (S(1) - s));
    }
  }
}

}  // namespace gated_rms_norm_cpu

template <class S>
void gated_rms_norm_forward_cpu(const GatedRmsNormArgs<S>& a) {
#pragma omp parallel
  {
    std::vector<S> u(static_cast<size_t>(round_up_to_lanes(a.group)), S(0));
#pragma omp for schedule(static)
    for (int64_t t = 0; t < a.tokens; ++t) gated_rms_norm_cpu::forward_token(a, t, u.data());
  }
}

// Elements of scratch that the backward op needs.
template <class S>
int64_t gated_rms_norm_backward_scratch(const GatedRmsNormArgs<S>& a) {
  using gated_rms_norm_cpu::kBlockTokens;
  return a.dweight == nullptr ? 0 : (a.tokens + kBlockTokens - 1) / kBlockTokens * a.channels;
}

template <class S>
void gated_rms_norm_backward_cpu(const GatedRmsNormArgs<S>& a, S* scratch) {
  using namespace gated_rms_norm_cpu;
  const int64_t blocks = (a.tokens + kBlockTokens - 1) / kBlockTokens;
#pragma omp parallel
  {
    std::vector<S> u(static_cast<size_t>(round_up_to_lanes(a.group)), S(0));
    std::vector<S> du = u;
#pragma omp for schedule(static)
    for (int64_t block = 0; block < blocks; ++block) {
      S* partial = a.dweight != nullptr ? scratch + block * a.channels : nullptr;
      if (partial != nullptr) std::fill_n(partial, a.channels, S(0));
      const int64_t end = std::min(a.tokens, (block + 1) * kBlockTokens);
      for (int64_t t = block * kBlockTokens; t < end; ++t) {
        for (int64_t c = 0; c < a.channels; c += a.group) {
          backward_group(a, t, c, u.data(), du.data(), partial != nullptr ? partial + c : nullptr);
        }
      }
    }
  }
  if (a.dweight == nullptr) return;
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t c = 0; c < a.channels; ++c) a.dweight[c] += scratch[block * a.channels + c];
  }
}

}  // namespace matvlm
