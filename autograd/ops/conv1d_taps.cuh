// What the kernels of the causal convolution share: a thread owns V neighbouring channels (one 16- or 8-byte access)
// and walks along tokens with the last W inputs in registers.
#pragma once

#include "autograd/ops/conv1d.h"
#include "autograd/ops/pack.cuh"
#include "core/cuda_context.h"

namespace matvlm::conv1d_kernels {

constexpr int kWarp = 32;

// SiLU of preactivations that come scaled by kScale, which saves the exponential's multiplication: bf16's are multiples
// of -log2(e), since e^-pre = 2^(kScale pre). Float's are not scaled: its exponential is the exact one.
template <class E>
struct Silu {
  static constexpr float kLog2E = 1.44269504F;
  static constexpr float kLn2 = 0.693147181F;
  static constexpr float kScale = std::is_same_v<E, float> ? 1.0F : -kLog2E;

  static __device__ float reciprocal(float x) {
    float r;  // within 1 ulp; 0 from 2^126 on
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
  }
  static __device__ float value(float scaled) {
    if constexpr (std::is_same_v<E, float>) {
      return scaled * sigmoid_for<E>(scaled);
    } else {
      return scaled * reciprocal(fmaf(mma::exp2_approx(scaled), kScale, kScale));
    }
  }
  // dy silu'(pre) / kScale: products with scaled taps are as they should be, other uses have to be scaled back.
  static __device__ float gradient(float scaled, float dy) {
    if constexpr (std::is_same_v<E, float>) {
      const float s = sigmoid_for<E>(scaled);
      return dy * (s * fmaf(scaled, 1.0F - s, 1.0F));
    } else {
      const float s = reciprocal(1.0F + mma::exp2_approx(scaled));
      return dy * s * fmaf(scaled, fmaf(s, -kLn2 * kLn2, kLn2 * kLn2), -kLn2);
    }
  }
};

// Weights and bias of V channels, times Silu's kScale.
template <class E, int V, int W>
struct Taps {
  float weight[W][V];
  float bias[V];
  __device__ Taps(const Conv1dArgs<E, float>& a, int64_t c) {
    constexpr float kScale = Silu<E>::kScale;
#pragma unroll
    for (int j = 0; j < W; ++j) {
      float flat[V];  // of the V x W values at channel c
      Pack<E, V>::load(a.weight + c * W + j * V).unpack(flat);
#pragma unroll
      for (int i = 0; i < V; ++i) weight[(j * V + i) % W][(j * V + i) / W] = flat[i] * kScale;
    }
    Pack<E, V>::load(a.bias + c).unpack(bias);
#pragma unroll
    for (int i = 0; i < V; ++i) bias[i] *= kScale;
#pragma unroll
    for (int w = 0; w < W; ++w) keep(weight[w]);
    keep(bias);
  }
};

// The last W values of V channels, by time modulo W: slot i holds the token that was put there last, slot i + 1 the one
// W - 1 tokens before it. Slots are constants once the loops over them are unrolled.
template <int V, int W>
struct Ring {
  float slot[W][V];
};

// Scaled, as the taps are.
template <class E, int V, int W>
__device__ void preactivation(const Taps<E, V, W>& taps, const Ring<V, W>& x, int newest, float (&pre)[V]) {
#pragma unroll
  for (int v = 0; v < V; ++v) {
    pre[v] = taps.bias[v];
#pragma unroll
    for (int w = 0; w < W; ++w) pre[v] = fmaf(taps.weight[w][v], x.slot[(newest + 1 + w) % W][v], pre[v]);
  }
}

// Inputs at time t of sequence b, which starts at `begin`; before it those of the initial state.
template <class E, int V, int W>
__device__ Pack<E, V> input_at(const Conv1dArgs<E, float>& a, int64_t b, int64_t begin, int64_t t, int64_t c) {
  if (t >= begin) return Pack<E, V>::load(a.x + t * a.x_stride + c);
  if (a.initial == nullptr) return {};
  const int64_t slot = a.slots != nullptr ? a.slots[b] : b;
  return Pack<E, V>::load(a.initial + (slot * (W - 1) + t - begin + W - 1) * a.channels + c);
}

// The W-1 inputs before time t into slots 1 ... W-1, so that the token at t belongs in slot 0.
template <class E, int V, int W>
__device__ void load_window(const Conv1dArgs<E, float>& a, int64_t b, int64_t begin, int64_t t, int64_t c,
                            Ring<V, W>& x) {
#pragma unroll
  for (int i = 1; i < W; ++i) input_at<E, V, W>(a, b, begin, t - W + i, c).unpack(x.slot[i]);
}

// The last W-1 inputs, oldest first, into rows [W-1, C].
template <class E, int V, int W>
__device__ void store_window(const Conv1dArgs<E, float>& a, const Ring<V, W>& x, int newest, int64_t c, E* rows) {
#pragma unroll
  for (int i = 0; i < W - 1; ++i) Pack<E, V>::pack(x.slot[(newest + 2 + i) % W]).store(rows + i * a.channels + c);
}

inline unsigned count_blocks(int64_t n, int64_t per_block) {
  return static_cast<unsigned>((n + per_block - 1) / per_block);
}

}  // namespace matvlm::conv1d_kernels
