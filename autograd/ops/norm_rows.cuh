// Kernels of norm.cuh for rows that can be moved 16 bytes at a time: a row stays in the registers of one to eight
// warps, read once and written once. Sums are in an order that depends on the row's length alone.
#pragma once

#include "autograd/ops/elementwise.cuh"
#include "autograd/ops/norm_args.h"
#include "autograd/ops/pack.cuh"

namespace matvlm {

constexpr int kNormSlots = 5;     // packs a thread holds: 2560 and 1152 columns of bf16 fill 5 and 4.5 of them
constexpr int kNormMaxWarps = 8;  // of a row

// kWarps warps a row; blocks of at least four warps, so of up to four rows.
template <int kWarps>
struct NormTeam {
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kBlockWarps = kWarps < 4 ? 4 : kWarps;
  static constexpr int kRows = kBlockWarps / kWarps;

  // Sum over the row's threads, the same in each. Successive calls alternate `phase` between 0 and 1: then one barrier
  // is enough. All threads of the block call.
  static __device__ float sum(float x, int phase) {
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffU, x, offset);
    if constexpr (kWarps > 1) {
      __shared__ float partial[2][kBlockWarps];
      const int warp = static_cast<int>(threadIdx.x) / 32;
      if (threadIdx.x % 32 == 0) partial[phase][warp] = x;
      __syncthreads();
      const int first = warp / kWarps * kWarps;
      x = 0;
#pragma unroll
      for (int i = 0; i < kWarps; ++i) x += partial[phase][first + i];
    }
    return x;
  }
};

// Blocks of a multiprocessor that a kernel of `registers` a thread leaves room for. At the step's 4096 rows of 2560 a
// team is two warps, and 2048 blocks take 2 rounds of 64 registers, 3 of 80, but 4 of what the compiler would take.
template <int kWarps>
constexpr int norm_blocks(int registers) {
  return 65536 / (registers * NormTeam<kWarps>::kBlockWarps * 32);
}

template <class T, bool kCentered, int kWarps, int kAddends>
__global__ void __launch_bounds__(NormTeam<kWarps>::kBlockWarps * 32, norm_blocks<kWarps>(kAddends == 0 ? 64 : 80))
    norm_forward_rows_kernel(NormForwardArgs<T> a) {
  using Team = NormTeam<kWarps>;
  constexpr int V = kPackWidth<T>;
  using Packed = Pack<T, V>;
  const float scale = 1.0F / static_cast<float>(a.cols);
  const int packs = static_cast<int>(a.cols / V);
  const int thread = static_cast<int>(threadIdx.x) % Team::kThreads;
  const int64_t step = static_cast<int64_t>(gridDim.x) * Team::kRows;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * Team::kRows; first < a.rows; first += step) {
    const int64_t r = first + static_cast<int>(threadIdx.x) / Team::kThreads;
    const bool valid = r < a.rows;
    Packed x[kNormSlots];
#pragma unroll
    for (int i = 0; i < kNormSlots; ++i) {
      const int p = thread + i * Team::kThreads;
      x[i] = Packed::load_if(valid && p < packs, a.x + r * a.x_stride + p * V);
    }
    if constexpr (kAddends > 0) {
      Packed added[kAddends][kNormSlots];
#pragma unroll
      for (int k = 0; k < kAddends; ++k) {
#pragma unroll
        for (int i = 0; i < kNormSlots; ++i) {
          const int p = thread + i * Team::kThreads;
          added[k][i] = Packed::load_if(valid && p < packs, a.sum.addend[k] + r * a.sum.stride[k] + p * V);
        }
      }
#pragma unroll
      for (int i = 0; i < kNormSlots; ++i) {
        const int p = thread + i * Team::kThreads;
        float v[V];
        x[i].unpack(v);
#pragma unroll
        for (int k = 0; k < kAddends; ++k) {
          float term[V];
          added[k][i].unpack(term);
#pragma unroll
          for (int j = 0; j < V; ++j) v[j] += term[j];
        }
        x[i] = Packed::pack(v);  // the norm is of what the sum's readers see
        if (valid && p < packs) x[i].store(a.sum.sum + r * a.sum.sum_stride + p * V);
      }
    }
    float mean = 0;
    if constexpr (kCentered) {
#pragma unroll
      for (int i = 0; i < kNormSlots; ++i) {  // packs past the end are zeros
        float v[V];
        x[i].unpack(v);
#pragma unroll
        for (int j = 0; j < V; ++j) mean += v[j];
      }
      mean = Team::sum(mean, 0) * scale;
    }
    float square = 0;
#pragma unroll
    for (int i = 0; i < kNormSlots; ++i) {
      if (thread + i * Team::kThreads < packs) {
        float v[V];
        x[i].unpack(v);
#pragma unroll
        for (int j = 0; j < V; ++j) square += (v[j] - mean) * (v[j] - mean);
      }
    }
    const float inv = 1.0F / sqrtf(Team::sum(square, 1) * scale + a.eps);
    // Of one sum a turn, the next turn's may not overwrite what slower warps still read.
    if constexpr (!kCentered && kWarps > 1) __syncthreads();
    if (!valid) continue;
#pragma unroll
    for (int i = 0; i < kNormSlots; ++i) {
      const int p = thread + i * Team::kThreads;
      if (p < packs) {
        float v[V];
        float w[V];
        float b[V] = {};
        x[i].unpack(v);
        Packed::load(a.w + p * V).unpack(w);
        if constexpr (kCentered) Packed::load(a.b + p * V).unpack(b);
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] = (v[j] - mean) * inv * w[j] + b[j];
        Packed::pack(v).store(a.y + r * a.y_stride + p * V);
      }
    }
    if (thread == 0) {
      if constexpr (kCentered) a.mean[r] = mean;
      a.inv[r] = inv;
    }
  }
}

template <class T, bool kCentered, int kWarps>
__global__ void __launch_bounds__(NormTeam<kWarps>::kBlockWarps * 32, norm_blocks<kWarps>(80))
    norm_backward_rows_kernel(NormBackwardArgs<T> a) {
  using Team = NormTeam<kWarps>;
  constexpr int V = kPackWidth<T>;
  using Packed = Pack<T, V>;
  const float scale = 1.0F / static_cast<float>(a.cols);
  const int packs = static_cast<int>(a.cols / V);
  const int thread = static_cast<int>(threadIdx.x) % Team::kThreads;
  const int64_t step = static_cast<int64_t>(gridDim.x) * Team::kRows;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * Team::kRows; first < a.rows; first += step) {
    const int64_t r = first + static_cast<int>(threadIdx.x) / Team::kThreads;
    const bool valid = r < a.rows;
    Packed x[kNormSlots];
    Packed dy[kNormSlots];
#pragma unroll
    for (int i = 0; i < kNormSlots; ++i) {
      const int p = thread + i * Team::kThreads;
      x[i] = Packed::load_if(valid && p < packs, a.x + r * a.x_stride + p * V);
      dy[i] = Packed::load_if(valid && p < packs, a.dy + r * a.dy_stride + p * V);
    }
    const float mean = kCentered && valid ? a.mean[r] : 0.0F;
    const float inv = valid ? a.inv[r] : 0.0F;
    float mean_g = 0;
    float mean_gn = 0;
#pragma unroll
    for (int i = 0; i < kNormSlots; ++i) {
      const int p = thread + i * Team::kThreads;
      if (p < packs) {
        float v[V];
        float g[V];
        float w[V];
        x[i].unpack(v);
        dy[i].unpack(g);
        Packed::load(a.w + p * V).unpack(w);
#pragma unroll
        for (int j = 0; j < V; ++j) {
          g[j] *= w[j];
          mean_g += g[j];
          mean_gn = fmaf(g[j], v[j] - mean, mean_gn);
        }
      }
    }
    mean_g = kCentered ? Team::sum(mean_g, 0) * scale : 0.0F;
    mean_gn = Team::sum(mean_gn, 1) * scale * inv;
    if constexpr (!kCentered && kWarps > 1) __syncthreads();  // as in forward
    if (!valid) continue;
    // dx = inv (g w - mean_g - n mean_gn) of the normalised n = (x - mean) inv.
    const float slope = -inv * inv * mean_gn;
    const float shift = -inv * mean_g;
#pragma unroll
    for (int i = 0; i < kNormSlots; ++i) {
      const int p = thread + i * Team::kThreads;
      if (p < packs) {
        float v[V];
        float g[V];
        float w[V];
        x[i].unpack(v);
        dy[i].unpack(g);
        Packed::load(a.w + p * V).unpack(w);
#pragma unroll
        for (int j = 0; j < V; ++j) g[j] = fmaf(v[j] - mean, slope, fmaf(g[j] * w[j], inv, shift));
        Packed::store_or_add(a.dx + r * a.dx_stride + p * V, g, a.accumulate);
      }
    }
  }
}

// Warps a row needs, 0 where it is too long.
inline int norm_warps(int64_t packs) {
  for (int warps = 1; warps <= kNormMaxWarps; warps *= 2) {
    if (packs <= int64_t{warps} * 32 * kNormSlots) return warps;
  }
  return 0;
}

// Calls launch(NormTeam<warps>{}) and returns true, or false where the row is too long.
template <class F>
bool with_norm_team(int64_t packs, F&& launch) {
  switch (norm_warps(packs)) {
    case 1:
      launch(NormTeam<1>{});
      return true;
    case 2:
      launch(NormTeam<2>{});
      return true;
    case 4:
      launch(NormTeam<4>{});
      return true;
    case 8:
      launch(NormTeam<8>{});
      return true;
    default:
      return false;
  }
}

// False, and nothing launched, where an operand cannot be moved 16 bytes at a time or a row is too long.
template <class T, bool kCentered>
bool launch_norm_forward_rows(Context& ctx, const NormForwardArgs<T>& a) {
  constexpr int V = kPackWidth<T>;
  if (a.cols % V != 0 || !rows_aligned(a.x, a.x_stride, V) || !rows_aligned(a.y, a.y_stride, V) ||
      !rows_aligned(a.w, 0, V) || !rows_aligned(a.b, 0, V) || !rows_aligned(a.sum.sum, a.sum.sum_stride, V)) {
    return false;
  }
  for (int k = 0; k < a.sum.addends; ++k) {
    if (!rows_aligned(a.sum.addend[k], a.sum.stride[k], V)) return false;
  }
  return with_norm_team(a.cols / V, [&](auto team) {
    using Team = decltype(team);
    constexpr int kWarps = Team::kThreads / 32;
    const auto kernel = a.sum.addends == 0   ? norm_forward_rows_kernel<T, kCentered, kWarps, 0>
                        : a.sum.addends == 1 ? norm_forward_rows_kernel<T, kCentered, kWarps, 1>
                                             : norm_forward_rows_kernel<T, kCentered, kWarps, 2>;
    kernel<<<grid_for(a.rows, Team::kRows), Team::kBlockWarps * 32, 0, cuda_stream(ctx)>>>(a);
    MATVLM_LAUNCH_CHECK();
  });
}

template <class T, bool kCentered>
bool launch_norm_backward_rows(Context& ctx, const NormBackwardArgs<T>& a) {
  constexpr int V = kPackWidth<T>;
  if (a.cols % V != 0 || !rows_aligned(a.dy, a.dy_stride, V) || !rows_aligned(a.x, a.x_stride, V) ||
      !rows_aligned(a.dx, a.dx_stride, V) || !rows_aligned(a.w, 0, V)) {
    return false;
  }
  return with_norm_team(a.cols / V, [&](auto team) {
    using Team = decltype(team);
    norm_backward_rows_kernel<T, kCentered, Team::kThreads / 32>
        <<<grid_for(a.rows, Team::kRows), Team::kBlockWarps * 32, 0, cuda_stream(ctx)>>>(a);
    MATVLM_LAUNCH_CHECK();
  });
}

}  // namespace matvlm
