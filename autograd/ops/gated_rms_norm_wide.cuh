// Gated RMSNorm over groups too wide for a warp's registers: a warp owns one group of one token and reads its values
// once for the statistics and once for the results. For gated_rms_norm.cu only.
#pragma once

#include "autograd/ops/gated_rms_norm.h"
#include "autograd/ops/pack.cuh"
#include "core/cuda_context.h"

namespace matvlm::gated_rms_norm_wide {

constexpr int kThreads = 256;
constexpr int kWarp = 32;

// Every lane gets the same bits: the exchange is symmetric.
__device__ inline float warp_sum(float x) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffU, x, offset);
  return x;
}

// One group of one token: where it lies, and the values that both passes share.
template <class E>
struct Group {
  const GatedRmsNormArgs<E, float>& a;
  int64_t t, c;  // token, first channel
  int lane;
  __device__ float z(int64_t i) const { return static_cast<float>(a.z[t * a.z_stride + c + i]); }
  __device__ float y(int64_t i) const { return static_cast<float>(a.y[t * a.y_stride + c + i]); }
  __device__ float gated(int64_t i) const {
    const float gate = z(i);
    return y(i) * gate * sigmoid_for<E>(gate);
  }
  __device__ float inverse_rms() const {
    float squares = 0.0F;
    for (int64_t i = lane; i < a.group; i += kWarp) {
      const float u = gated(i);
      squares += u * u;
    }
    return rsqrtf(warp_sum(squares) / static_cast<float>(a.group) + static_cast<float>(a.eps));
  }
};

// Group number of this warp, or -1 past the end.
template <class E>
__device__ int64_t warp_group(const GatedRmsNormArgs<E, float>& a) {
  const int64_t index = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  return index < a.tokens * (a.channels / a.group) ? index : -1;
}

template <class E>
__global__ void forward_kernel(GatedRmsNormArgs<E, float> a) {
  const int64_t index = warp_group(a);
  if (index < 0) return;
  const int64_t groups = a.channels / a.group;
  const Group<E> group{a, index / groups, index % groups * a.group, static_cast<int>(threadIdx.x) % kWarp};
  const float r = group.inverse_rms();
  E* out = a.out + group.t * a.out_stride + group.c;
  for (int64_t i = group.lane; i < a.group; i += kWarp) {
    out[i] = E(group.gated(i) * r * static_cast<float>(a.weight[group.c + i]));
  }
}

// dy, dz, and 1 / rms of every group into inverse_rms [T, groups].
template <class E>
__global__ void input_gradient_kernel(GatedRmsNormArgs<E, float> a, float* inverse_rms) {
  const int64_t index = warp_group(a);
  if (index < 0) return;
  const int64_t groups = a.channels / a.group;
  const Group<E> group{a, index / groups, index % groups * a.group, static_cast<int>(threadIdx.x) % kWarp};
  const float r = group.inverse_rms();
  if (group.lane == 0) inverse_rms[index] = r;
  if (a.dy == nullptr && a.dz == nullptr) return;
  const E* dout = a.dout + group.t * a.dout_stride + group.c;
  float products = 0.0F;
  for (int64_t i = group.lane; i < a.group; i += kWarp) {
    products += static_cast<float>(dout[i]) * static_cast<float>(a.weight[group.c + i]) * group.gated(i);
  }
  const float common = r * r * r * warp_sum(products) / static_cast<float>(a.group);
  for (int64_t i = group.lane; i < a.group; i += kWarp) {
    const float z = group.z(i);
    const float s = sigmoid_for<E>(z);
    const float y = group.y(i);
    const float du = r * static_cast<float>(dout[i]) * static_cast<float>(a.weight[group.c + i]) - common * (y * z * s);
    if (a.dy != nullptr) {
      E* dy = a.dy + group.t * a.dy_stride + group.c + i;
      const float value = du * z * s;
      *dy = E(a.dy_accumulate ? static_cast<float>(*dy) + value : value);
    }
    if (a.dz != nullptr) {
      E* dz = a.dz + group.t * a.dz_stride + group.c + i;
      const float value = du * y * s * (1.0F + z * (1.0F - s));
      *dz = E(a.dz_accumulate ? static_cast<float>(*dz) + value : value);
    }
  }
}

// Sums of dout * u / rms over a tile of tokens: partial [tiles, C]. A thread owns a channel.
template <class E>
__global__ void weight_partial_kernel(GatedRmsNormArgs<E, float> a, int64_t tile_tokens, const float* inverse_rms,
                                      float* partial) {
  const int64_t channel = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (channel >= a.channels) return;
  const int64_t groups = a.channels / a.group;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * tile_tokens;
  const int64_t last = min(first + tile_tokens, a.tokens);
  float sum = 0.0F;
  for (int64_t t = first; t < last; ++t) {
    const Group<E> group{a, t, channel, 0};
    sum += static_cast<float>(a.dout[t * a.dout_stride + channel]) * group.gated(0) *
           inverse_rms[t * groups + channel / a.group];
  }
  partial[static_cast<int64_t>(blockIdx.x) * a.channels + channel] = sum;
}

template <class E>
unsigned warp_blocks(const GatedRmsNormArgs<E, float>& a) {
  const int64_t warps = a.tokens * (a.channels / a.group);
  return static_cast<unsigned>((warps * kWarp + kThreads - 1) / kThreads);
}

template <class E>
void launch_forward(Context& ctx, const GatedRmsNormArgs<E, float>& a) {
  forward_kernel<E><<<warp_blocks(a), kThreads, 0, cuda_stream(ctx)>>>(a);
  MATVLM_LAUNCH_CHECK();
}

// partial: [tiles of tile_tokens, C], or null when the weight needs no gradient.
template <class E>
void launch_backward(Context& ctx, const GatedRmsNormArgs<E, float>& a, int64_t tile_tokens, float* partial) {
  const Tensor inverse_rms = Tensor::empty(ctx, {a.tokens, a.channels / a.group}, DType::f32);
  input_gradient_kernel<E><<<warp_blocks(a), kThreads, 0, cuda_stream(ctx)>>>(a, inverse_rms.data<float>());
  MATVLM_LAUNCH_CHECK();
  if (partial == nullptr) return;
  const dim3 grid(static_cast<unsigned>((a.tokens + tile_tokens - 1) / tile_tokens),
                  static_cast<unsigned>((a.channels + kThreads - 1) / kThreads));
  weight_partial_kernel<E><<<grid, kThreads, 0, cuda_stream(ctx)>>>(a, tile_tokens, inverse_rms.data<float>(), partial);
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm::gated_rms_norm_wide
