// The kernel of the rotary embedding: a block turns a few tokens, whose cosines and sines lie in shared memory. All
// that a thread reads is under way before it computes anything, and before the angles, whose chain of instructions is
// about as long as the memory's latency. For rotary.cu and its benchmark only.
#pragma once

#include "autograd/ops/pack_rows.cuh"
#include "autograd/ops/rotary.h"

namespace matvlm::rotary_turn {

constexpr int kThreads = 128;  // of a token

// One way of running the kernel: rows of threads, each with its own tokens; tokens of a thread, whose loads are under
// way together.
template <int kRows_, int kRowTokens_>
struct Plan {
  static constexpr int kRows = kRows_;
  static constexpr int kRowTokens = kRowTokens_;
  static constexpr int kBlockTokens = kRows * kRowTokens;
};

constexpr int kMaxPairs = 128;
constexpr double kPi = 3.14159265358979323846;

struct Frequencies {
  double value[kMaxPairs];  // half turns per position
};

template <int kBlockTokens>
struct Angles {
  alignas(16) float cosines[kBlockTokens][kMaxPairs];
  alignas(16) float sines[kBlockTokens][kMaxPairs];
};

// Angles of tokens first ... first + count - 1, by all threads of the block.
template <class T, int kBlockTokens>
__device__ void compute_angles(const RotaryArgs<T>& a, const Frequencies& frequencies, int64_t first, int count,
                               int half, Angles<kBlockTokens>& angles) {
  const int thread = static_cast<int>(threadIdx.y) * kThreads + static_cast<int>(threadIdx.x);
#pragma unroll 1
  for (int i = thread; i < count * half; i += kThreads * static_cast<int>(blockDim.y)) {
    const int token = i / half;
    const int pair = i - token * half;
    // Reduced to [-1, 1] half turns in double, so that sincospif sees a small argument with one float rounding.
    const double turns = static_cast<double>(a.positions[first + token]) * frequencies.value[pair];
    const double reduced = fma(-2.0, rint(0.5 * turns), turns);
    float sine, cosine;
    sincospif(static_cast<float>(reduced), &sine, &cosine);
    if (a.table != nullptr) {
      float* row = a.table + (first + token) * 2 * half + pair;
      row[0] = cosine;
      row[half] = sine;
    }
    angles.cosines[token][pair] = cosine;
    angles.sines[token][pair] = a.inverse ? -sine : sine;
  }
}

// V neighbouring floats of shared memory, 16 bytes an access where V allows it; `from` is a multiple of V floats away
// from a 16-byte boundary.
template <int V>
__device__ void load_shared(float (&x)[V], const float* from) {
  if constexpr (V % 4 == 0) {
#pragma unroll
    for (int i = 0; i < V; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(from + i);
      x[i] = four.x;
      x[i + 1] = four.y;
      x[i + 2] = four.z;
      x[i + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) x[i] = from[i];
  }
}

// V neighbouring pairs of a head: dims i ... i + V - 1 and as many from i + R/2 on.
template <class T, int V>
struct Pairs {
  Pack<T, V> low, high;

  __device__ void load(const T* x, int half, bool valid) {
    low = Pack<T, V>::load_if(valid, x);
    high = Pack<T, V>::load_if(valid, x + half);
  }
  __device__ void turn_and_store(T* y, int half, const float* cosines, const float* sines, bool accumulate) const {
    float first[V], second[V], c[V], s[V];
    low.unpack(first);
    high.unpack(second);
    load_shared(c, cosines);
    load_shared(s, sines);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float x = first[i];
      first[i] = x * c[i] - s[i] * second[i];
      second[i] = second[i] * c[i] + s[i] * x;
    }
    store_pack(y, first, accumulate);
    store_pack(y + half, second, accumulate);
  }
};

// A thread turns whole pairs, so y may be x.
template <class T, int V, class Plan>
__global__ void __launch_bounds__(kThreads* Plan::kRows) rotary_kernel(RotaryArgs<T> a, Frequencies frequencies) {
  constexpr int kBlockTokens = Plan::kBlockTokens;
  constexpr int kRowTokens = Plan::kRowTokens;
  __shared__ Angles<kBlockTokens> angles;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kBlockTokens;
  const int count = static_cast<int>(min(a.tokens - first, static_cast<int64_t>(kBlockTokens)));
  const int half = static_cast<int>(a.rotary_dims / 2);
  const int head_packs = half / V;
  const int packs = static_cast<int>(a.heads) * head_packs;
  const int own = static_cast<int>(threadIdx.y) * kRowTokens;  // first token of this thread
  const T* x = a.x + (first + own) * a.x_stride;
  T* y = a.y + (first + own) * a.y_stride;
  for (int index = static_cast<int>(threadIdx.x), turn = 0; turn == 0 || index < packs; index += kThreads, ++turn) {
    const int head = index / head_packs;
    const int pair = (index - head * head_packs) * V;
    const int64_t column = static_cast<int64_t>(head) * a.head_dim + pair;
    Pairs<T, V> pairs[kRowTokens];
#pragma unroll
    for (int i = 0; i < kRowTokens; ++i) {
      pairs[i].load(x + i * a.x_stride + column, half, index < packs && own + i < count);
    }
    if (turn == 0) {
      compute_angles(a, frequencies, first, count, half, angles);
      __syncthreads();
    }
    if (index >= packs) break;
#pragma unroll
    for (int i = 0; i < kRowTokens; ++i) {
      if (own + i >= count) break;
      pairs[i].turn_and_store(y + i * a.y_stride + column, half, &angles.cosines[own + i][pair],
                              &angles.sines[own + i][pair], a.accumulate);
    }
  }
}

// Rotates R > 0 dims. kWide: rows can be moved 16 bytes at a time, and so can halves of the rotated dims.
template <class T, class Plan, bool kWide>
void launch(Context& ctx, const RotaryArgs<T>& args) {
  Frequencies frequencies{};
  for (int64_t i = 0; i < args.rotary_dims / 2; ++i) frequencies.value[i] = rotary_frequency(args, i) / kPi;
  const auto blocks = static_cast<unsigned>((args.tokens + Plan::kBlockTokens - 1) / Plan::kBlockTokens);
  const dim3 threads(kThreads, Plan::kRows);
  rotary_kernel<T, kWide ? kPackWidth<T> : 1, Plan><<<blocks, threads, 0, cuda_stream(ctx)>>>(args, frequencies);
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm::rotary_turn
