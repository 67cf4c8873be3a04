// CUDA kernels of the gated RMSNorm. A warp owns one group of one token; weight gradients are partial sums per tile of
// tokens, then an ordered sum over tiles.
#include "autograd/ops/gated_rms_norm.h"
#include "core/cuda_context.h"

namespace matvlm {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int64_t kTileTokens = 32;

__device__ float sigmoid(float x) { return 1.0F / (1.0F + expf(-x)); }

// Every lane gets the same bits: the exchange is symmetric.
__device__ float warp_sum(float x) {
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
    return y(i) * gate * sigmoid(gate);
  }
  __device__ float inverse_rms() const {
    float squares = 0.0F;
    for (int64_t i = lane; i < a.group; i += kWarp) {
      const float u = gated(i);
      squares += u * u;
    }
    return 1.0F / sqrtf(warp_sum(squares) / static_cast<float>(a.group) + static_cast<float>(a.eps));
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
    const float s = sigmoid(z);
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
__global__ void weight_partial_kernel(GatedRmsNormArgs<E, float> a, const float* inverse_rms, float* partial) {
  const int64_t channel = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (channel >= a.channels) return;
  const int64_t groups = a.channels / a.group;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTileTokens;
  const int64_t last = min(first + kTileTokens, a.tokens);
  float sum = 0.0F;
  for (int64_t t = first; t < last; ++t) {
    const Group<E> group{a, t, channel, 0};
    sum += static_cast<float>(a.dout[t * a.dout_stride + channel]) * group.gated(0) *
           inverse_rms[t * groups + channel / a.group];
  }
  partial[static_cast<int64_t>(blockIdx.x) * a.channels + channel] = sum;
}

__global__ void weight_gradient_kernel(const float* partial, int64_t tiles, int64_t channels, float* dweight) {
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (channel >= channels) return;
  float sum = 0.0F;
  for (int64_t i = 0; i < tiles; ++i) sum += partial[i * channels + channel];
  dweight[channel] += sum;
}

template <class E>
unsigned warp_blocks(const GatedRmsNormArgs<E, float>& a) {
  const int64_t warps = a.tokens * (a.channels / a.group);
  return static_cast<unsigned>((warps * kWarp + kThreads - 1) / kThreads);
}

}  // namespace

template <class E>
void gated_rms_norm_forward_cuda(Context& ctx, const GatedRmsNormArgs<E, float>& a) {
  if (a.tokens == 0 || a.channels == 0) return;
  forward_kernel<E><<<warp_blocks(a), kThreads, 0, cuda_stream(ctx)>>>(a);
  MATVLM_LAUNCH_CHECK();
}

template <class E>
void gated_rms_norm_backward_cuda(Context& ctx, const GatedRmsNormArgs<E, float>& a) {
  if (a.tokens == 0 || a.channels == 0) return;
  const Tensor inverse_rms = Tensor::empty(ctx, {a.tokens, a.channels / a.group}, DType::f32);
  input_gradient_kernel<E><<<warp_blocks(a), kThreads, 0, cuda_stream(ctx)>>>(a, inverse_rms.data<float>());
  MATVLM_LAUNCH_CHECK();
  if (a.dweight == nullptr) return;
  const int64_t tiles = (a.tokens + kTileTokens - 1) / kTileTokens;
  const Tensor partial = Tensor::empty(ctx, {tiles, a.channels}, DType::f32);
  const auto columns = static_cast<unsigned>((a.channels + kThreads - 1) / kThreads);
  weight_partial_kernel<E><<<dim3(static_cast<unsigned>(tiles), columns), kThreads, 0, cuda_stream(ctx)>>>(
      a, inverse_rms.data<float>(), partial.data<float>());
  MATVLM_LAUNCH_CHECK();
  weight_gradient_kernel<<<columns, kThreads, 0, cuda_stream(ctx)>>>(partial.data<float>(), tiles, a.channels,
                                                                     a.dweight);
  MATVLM_LAUNCH_CHECK();
}

template void gated_rms_norm_forward_cuda(Context&, const GatedRmsNormArgs<float, float>&);
template void gated_rms_norm_forward_cuda(Context&, const GatedRmsNormArgs<bf16, float>&);
template void gated_rms_norm_backward_cuda(Context&, const GatedRmsNormArgs<float, float>&);
template void gated_rms_norm_backward_cuda(Context&, const GatedRmsNormArgs<bf16, float>&);

}  // namespace matvlm
