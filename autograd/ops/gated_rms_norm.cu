// CUDA kernels of the gated RMSNorm. A group of channels is spread over as many lanes of a warp as leave few of them
// idle, K vectors of V elements each, so that a token's values are read once and stay in registers; a warp walks along
// tokens. Weight gradients: one partial sum per tile and channel, then an ordered sum over tiles. Groups too wide for
// that take gated_rms_norm_wide.cuh, those of the width that the published model has gated_rms_norm_quads.cuh.
#include <type_traits>

#include "autograd/ops/gated_rms_norm.h"
#include "autograd/ops/gated_rms_norm_quads.cuh"
#include "autograd/ops/gated_rms_norm_wide.cuh"
#include "autograd/ops/pack.cuh"
#include "core/cuda_context.h"

namespace matvlm {
namespace {

constexpr int kWarp = 32;
constexpr int kWarps = 4;  // of a block; they take tokens in turn, all the same channels
constexpr int64_t kForwardTile = 32;
constexpr int64_t kBackwardTile = 64;

// How groups lie on the lanes of a warp.
struct GroupLayout {
  int lanes = 0;         // of a group
  int groups = 0;        // of a warp
  unsigned columns = 0;  // warps that cover all channels
};

// The channels of this lane: vector k is at offset (k * lanes + index) * V of its group.
template <class E, int V, int K>
struct LaneChannels {
  int64_t first;  // channel of the warp's first group
  int span;       // channels of the warp
  int lanes, index;
  int64_t channel[K];
  bool valid[K];
  float weight[K][V];

  __device__ LaneChannels(const GatedRmsNormArgs<E, float>& a, const GroupLayout& layout, int lane) {
    const int group_width = static_cast<int>(a.group);
    lanes = layout.lanes;
    index = lane % lanes;
    const int group = lane / lanes;
    first = static_cast<int64_t>(blockIdx.x % layout.columns) * layout.groups * group_width;
    span = static_cast<int>(min(static_cast<int64_t>(layout.groups * group_width), a.channels - first));
    const int begin = group * group_width;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int offset = (k * lanes + index) * V;
      valid[k] = group < layout.groups && offset < group_width && begin < span;
      channel[k] = first + begin + offset;
      Pack<E, V>::load_if(valid[k], a.weight + channel[k]).unpack(weight[k]);
      keep(weight[k]);
    }
  }
  __device__ Pack<E, V> load(int k, bool known, const E* row) const {
    return Pack<E, V>::load_if(known && valid[k], row + channel[k]);
  }
};

// Sums over the `lanes` neighbouring lanes of a group; lane `index` of them calls it. A fixed tree, and all lanes get
// the same bits.
template <int M>
__device__ void group_sums(float (&x)[M], int lanes, int index, int lane) {
  for (int n = lanes; n > 1;) {
    const int half = (n + 1) / 2;
#pragma unroll
    for (int m = 0; m < M; ++m) {
      const float other = __shfl_down_sync(0xffffffffU, x[m], static_cast<unsigned>(half));
      if (index + half < n) x[m] += other;
    }
    n = half;
  }
#pragma unroll
  for (int m = 0; m < M; ++m) x[m] = __shfl_sync(0xffffffffU, x[m], lane - index);
}

template <class E, int V, int K>
__global__ void __launch_bounds__(kWarp* kWarps) forward_kernel(GatedRmsNormArgs<E, float> a, GroupLayout layout) {
  constexpr int kBatch = K < 4 ? 4 / K : 1;  // tokens whose loads are under way together
  const int lane = static_cast<int>(threadIdx.x);
  const LaneChannels<E, V, K> at(a, layout, lane);
  const int64_t first = static_cast<int64_t>(blockIdx.x / layout.columns) * kForwardTile;
  const int64_t last = min(first + kForwardTile, a.tokens);
  const float scale = 1.0F / static_cast<float>(a.group);
  const auto eps = static_cast<float>(a.eps);
  for (int64_t t = first + threadIdx.y; t < last; t += kWarps * kBatch) {
    Pack<E, V> y[kBatch][K], z[kBatch][K];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
#pragma unroll
      for (int k = 0; k < K; ++k) {
        y[i][k] = at.load(k, t + i * kWarps < last, a.y + (t + i * kWarps) * a.y_stride);
        z[i][k] = at.load(k, t + i * kWarps < last, a.z + (t + i * kWarps) * a.z_stride);
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (t + i * kWarps >= last) break;
      float u[K][V];
      float squares[1] = {};
#pragma unroll
      for (int k = 0; k < K; ++k) {
        float gate[V];
        y[i][k].unpack(u[k]);
        z[i][k].unpack(gate);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          u[k][v] *= gate[v] * sigmoid_for<E>(gate[v]);
          squares[0] = fmaf(u[k][v], u[k][v], squares[0]);
        }
      }
      group_sums(squares, at.lanes, at.index, lane);
      const float r = rsqrtf(fmaf(squares[0], scale, eps));
      E* out = a.out + (t + i * kWarps) * a.out_stride;
#pragma unroll
      for (int k = 0; k < K; ++k) {
#pragma unroll
        for (int v = 0; v < V; ++v) u[k][v] *= r * at.weight[k][v];
        if (at.valid[k]) Pack<E, V>::pack(u[k]).store(out + at.channel[k]);
      }
    }
  }
}

// One token of a warp's groups: dy and dz are written, dweight grows. Lanes without channels hold zeros.
template <class E, int V, int K>
__device__ void backward_token(const GatedRmsNormArgs<E, float>& a, const LaneChannels<E, V, K>& at, int64_t t,
                               int lane, const Pack<E, V> (&y_in)[K], const Pack<E, V> (&z_in)[K],
                               const Pack<E, V> (&dout_in)[K], float (&dweight)[K][V]) {
  const float scale = 1.0F / static_cast<float>(a.group);
  float s[K][V];       // sigmoid of the gate
  float u[K][V];       // y * gate * s
  float sums[2] = {};  // of u^2 and of dout * weight * u
#pragma unroll
  for (int k = 0; k < K; ++k) {
    float gate[V], dout[V];
    y_in[k].unpack(u[k]);
    z_in[k].unpack(gate);
    dout_in[k].unpack(dout);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      s[k][v] = sigmoid_for<E>(gate[v]);
      u[k][v] *= gate[v] * s[k][v];
      sums[0] = fmaf(u[k][v], u[k][v], sums[0]);
      sums[1] = fmaf(dout[v] * at.weight[k][v], u[k][v], sums[1]);
    }
  }
  group_sums(sums, at.lanes, at.index, lane);
  const float r = rsqrtf(fmaf(sums[0], scale, static_cast<float>(a.eps)));
  const float common = r * r * r * sums[1] * scale;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    float y[V], z[V], dout[V], dy[V], dz[V];
    y_in[k].unpack(y);
    z_in[k].unpack(z);
    dout_in[k].unpack(dout);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      dweight[k][v] = fmaf(dout[v] * r, u[k][v], dweight[k][v]);
      const float du = s[k][v] * (r * dout[v] * at.weight[k][v] - common * u[k][v]);  // times the sigmoid
      dy[v] = du * z[v];
      dz[v] = du * y[v] * fmaf(z[v], 1.0F - s[k][v], 1.0F);
    }
    if (!at.valid[k]) continue;
    if (a.dy != nullptr) Pack<E, V>::store_or_add(a.dy + t * a.dy_stride + at.channel[k], dy, a.dy_accumulate);
    if (a.dz != nullptr) Pack<E, V>::store_or_add(a.dz + t * a.dz_stride + at.channel[k], dz, a.dz_accumulate);
  }
}

// partial: [tiles, C] for the sums of dout * u * r over a tile, or null when the weight needs no gradient.
template <class E, int V, int K>
__global__ void __launch_bounds__(kWarp* kWarps)
    backward_kernel(GatedRmsNormArgs<E, float> a, GroupLayout layout, float* partial) {
  constexpr int kBatch = K == 1 ? 2 : 1;  // tokens whose loads are under way together
  __shared__ float shared[kWarps][K * V * kWarp];
  const int lane = static_cast<int>(threadIdx.x);
  const int warp = static_cast<int>(threadIdx.y);
  const LaneChannels<E, V, K> at(a, layout, lane);
  const int64_t tile = blockIdx.x / layout.columns;
  const int64_t first = tile * kBackwardTile;
  const int64_t last = min(first + kBackwardTile, a.tokens);
  float dweight[K][V] = {};
  for (int64_t t = first + warp; t < last; t += kWarps * kBatch) {
    Pack<E, V> y[kBatch][K], z[kBatch][K], dout[kBatch][K];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int64_t token = t + i * kWarps;
#pragma unroll
      for (int k = 0; k < K; ++k) {
        y[i][k] = at.load(k, token < last, a.y + token * a.y_stride);
        z[i][k] = at.load(k, token < last, a.z + token * a.z_stride);
        dout[i][k] = at.load(k, token < last, a.dout + token * a.dout_stride);
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (t + i * kWarps >= last) break;
      backward_token(a, at, t + i * kWarps, lane, y[i], z[i], dout[i], dweight);
    }
  }
  if (partial == nullptr) return;
#pragma unroll
  for (int k = 0; k < K; ++k) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (at.valid[k]) shared[warp][static_cast<int>(at.channel[k] - at.first) + v] = dweight[k][v];
    }
  }
  __syncthreads();
  for (int c = warp * kWarp + lane; c < at.span; c += kWarp * kWarps) {
    float sum = 0.0F;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) sum += shared[i][c];
    partial[tile * a.channels + at.first + c] = sum;
  }
}

// Lanes of a group that holds `vectors` vectors, K to a lane; 0 when a warp has too few.
int lanes_for(int64_t vectors, int K) {
  const int64_t lanes = (vectors + K - 1) / K;
  return lanes <= kWarp ? static_cast<int>(lanes) : 0;
}

// Part of a warp's vector places that hold a vector.
double used_share(int64_t vectors, int K) {
  const int lanes = lanes_for(vectors, K);
  if (lanes == 0) return 0;
  return static_cast<double>(kWarp / lanes * vectors) / static_cast<double>(kWarp * K);
}

// Calls f with V, K and the layout that leaves the fewest places empty; false when the group is too wide for any.
template <class E, class F>
bool with_layout(const GatedRmsNormArgs<E, float>& a, bool aligned, F&& f) {
  const int width = aligned ? kPackWidth<E> : 1;
  const int64_t vectors = a.group / width;
  int best = 0;
  for (const int K : {1, 2, 4}) {
    if (used_share(vectors, K) > (best == 0 ? 0.0 : used_share(vectors, best))) best = K;
  }
  if (best == 0) return false;
  GroupLayout layout;
  layout.lanes = lanes_for(vectors, best);
  layout.groups = kWarp / layout.lanes;
  const int64_t groups = a.channels / a.group;
  layout.columns = static_cast<unsigned>((groups + layout.groups - 1) / layout.groups);
  const auto with_vector = [&](auto vector) {
    if (best == 1) return f(vector, std::integral_constant<int, 1>{}, layout);
    if (best == 2) return f(vector, std::integral_constant<int, 2>{}, layout);
    f(vector, std::integral_constant<int, 4>{}, layout);
  };
  if (aligned) {
    with_vector(std::integral_constant<int, kPackWidth<E>>{});
  } else {
    with_vector(std::integral_constant<int, 1>{});
  }
  return true;
}

template <class E>
bool inputs_aligned(const GatedRmsNormArgs<E, float>& a) {
  constexpr int kWidth = kPackWidth<E>;
  return a.group % kWidth == 0 && rows_aligned(a.y, a.y_stride, kWidth) && rows_aligned(a.z, a.z_stride, kWidth) &&
         rows_aligned(a.weight, 0, kWidth);
}

int64_t tiles_of(int64_t tokens, int64_t tile) { return (tokens + tile - 1) / tile; }

// The group width that takes four lanes, and how.
constexpr int kQuadGroup = 80;
using QuadPlan = gated_rms_norm_quads::Plan<8, 3, 2>;

// The next two: false, and nothing launched, where the kernels of four lanes do not apply.
template <class E>
bool quads_forward(Context& ctx, const GatedRmsNormArgs<E, float>& a, bool aligned) {
  namespace quads = gated_rms_norm_quads;
  if constexpr (std::is_same_v<E, bf16>) {
    if (!aligned || a.group != kQuadGroup || !quads::fits<kQuadGroup, QuadPlan, 2>(ctx)) return false;
    quads::launch_forward<kQuadGroup, QuadPlan>(ctx, a);
    return true;
  }
  return false;
}

template <class E>
bool quads_backward(Context& ctx, const GatedRmsNormArgs<E, float>& a, bool aligned) {
  namespace quads = gated_rms_norm_quads;
  if constexpr (std::is_same_v<E, bf16>) {
    if (!aligned || a.group != kQuadGroup || a.dy_accumulate || a.dz_accumulate ||
        !quads::fits<kQuadGroup, QuadPlan, 3>(ctx)) {
      return false;
    }
    quads::launch_backward<kQuadGroup, QuadPlan>(ctx, a);
    return true;
  }
  return false;
}

}  // namespace

template <class E>
void gated_rms_norm_forward_cuda(Context& ctx, const GatedRmsNormArgs<E, float>& a) {
  if (a.tokens == 0 || a.channels == 0) return;
  const bool aligned = inputs_aligned(a) && rows_aligned(a.out, a.out_stride, kPackWidth<E>);
  if (quads_forward(ctx, a, aligned)) return;
  const bool done = with_layout(a, aligned, [&](auto vector, auto per_lane, const GroupLayout& layout) {
    const auto blocks = static_cast<unsigned>(tiles_of(a.tokens, kForwardTile)) * layout.columns;
    forward_kernel<E, vector(), per_lane()><<<blocks, dim3(kWarp, kWarps), 0, cuda_stream(ctx)>>>(a, layout);
    MATVLM_LAUNCH_CHECK();
  });
  if (!done) gated_rms_norm_wide::launch_forward(ctx, a);
}

template <class E>
void gated_rms_norm_backward_cuda(Context& ctx, const GatedRmsNormArgs<E, float>& a) {
  if (a.tokens == 0 || a.channels == 0) return;
  constexpr int kWidth = kPackWidth<E>;
  const bool aligned = inputs_aligned(a) && rows_aligned(a.dout, a.dout_stride, kWidth) &&
                       rows_aligned(a.dy, a.dy_stride, kWidth) && rows_aligned(a.dz, a.dz_stride, kWidth);
  if (quads_backward(ctx, a, aligned)) return;
  const int64_t tiles = tiles_of(a.tokens, kBackwardTile);
  const Tensor partial = Tensor::empty(ctx, {a.dweight != nullptr ? tiles : 0, a.channels}, DType::f32);
  float* sums = a.dweight != nullptr ? partial.data<float>() : nullptr;
  const bool done = with_layout(a, aligned, [&](auto vector, auto per_lane, const GroupLayout& layout) {
    const unsigned blocks = static_cast<unsigned>(tiles) * layout.columns;
    backward_kernel<E, vector(), per_lane()><<<blocks, dim3(kWarp, kWarps), 0, cuda_stream(ctx)>>>(a, layout, sums);
    MATVLM_LAUNCH_CHECK();
  });
  if (!done) gated_rms_norm_wide::launch_backward(ctx, a, kBackwardTile, sums);
  if (a.dweight != nullptr) add_column_sums(ctx, sums, tiles, a.channels, a.dweight);
}

template void gated_rms_norm_forward_cuda(Context&, const GatedRmsNormArgs<float, float>&);
template void gated_rms_norm_forward_cuda(Context&, const GatedRmsNormArgs<bf16, float>&);
template void gated_rms_norm_backward_cuda(Context&, const GatedRmsNormArgs<float, float>&);
template void gated_rms_norm_backward_cuda(Context&, const GatedRmsNormArgs<bf16, float>&);

}  // namespace matvlm
