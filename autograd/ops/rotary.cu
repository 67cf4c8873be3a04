// Rotary embedding on a GPU: a block turns a few tokens, whose cosines and sines lie in shared memory. All that a
// thread reads is under way before it computes anything, and before the angles, whose chain of instructions is about as
// long as the memory's latency.
#include "autograd/ops/pack_rows.cuh"
#include "autograd/ops/rotary.h"

namespace matvlm {
namespace {

constexpr int kThreads = 128;  // of a token
constexpr int kRows = 2;       // of threads, each with its own tokens
constexpr int kRowTokens = 2;  // tokens of a thread: its loads under way together
constexpr int kBlockTokens = kRows * kRowTokens;
constexpr int kMaxPairs = 128;
constexpr double kPi = 3.14159265358979323846;

struct Frequencies {
  double value[kMaxPairs];  // half turns per position
};

struct Angles {
  alignas(16) float cosines[kBlockTokens][kMaxPairs];
  alignas(16) float sines[kBlockTokens][kMaxPairs];
};

// Angles of tokens first ... first + count - 1, by all threads of the block.
template <class T>
__device__ void compute_angles(const RotaryArgs<T>& a, const Frequencies& frequencies, int64_t first, int count,
                               int half, Angles& angles) {
  const int thread = static_cast<int>(threadIdx.y) * kThreads + static_cast<int>(threadIdx.x);
#pragma unroll 1
  for (int i = thread; i < count * half; i += kThreads * kRows) {
    const int token = i / half;
    const int pair = i - token * half;
    // Reduced to [-1, 1] half turns in double, so that sincospif sees a small argument with one float rounding.
    const double turns = static_cast<double>(a.positions[first + token]) * frequencies.value[pair];
    const double reduced = fma(-2.0, rint(0.5 * turns), turns);
    float sine, cosine;
    sincospif(static_cast<float>(reduced), &sine, &cosine);
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
template <class T, int V>
__global__ void __launch_bounds__(kThreads* kRows) rotary_kernel(RotaryArgs<T> a, Frequencies frequencies) {
  __shared__ Angles angles;
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

// Dims R and above of every head, which pass through, where y is not x.
template <class T>
__global__ void pass_kernel(RotaryArgs<T> a) {
  const int64_t t = blockIdx.x;
  const int rest = static_cast<int>(a.head_dim - a.rotary_dims);
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(a.heads) * rest; i += kThreads) {
    const int64_t column = static_cast<int64_t>(i / rest) * a.head_dim + a.rotary_dims + i % rest;
    float value = static_cast<float>(a.x[t * a.x_stride + column]);
    T* to = a.y + t * a.y_stride + column;
    if (a.accumulate) value += static_cast<float>(*to);
    *to = static_cast<T>(value);
  }
}

}  // namespace

template <class T>
void rotary_cuda(Context& ctx, const RotaryArgs<T>& args) {
  if (args.tokens == 0) return;
  check(args.rotary_dims <= 2 * kMaxPairs, "[rotary] rotary dims on a GPU: found ", args.rotary_dims,
        ", expected at most ", 2 * kMaxPairs);
  Frequencies frequencies{};
  for (int64_t i = 0; i < args.rotary_dims / 2; ++i) {
    frequencies.value[i] = rotary_frequency(args, i) / kPi;
  }
  const auto blocks = static_cast<unsigned>((args.tokens + kBlockTokens - 1) / kBlockTokens);
  const dim3 threads(kThreads, kRows);
  constexpr int kWide = kPackWidth<T>;
  const bool wide = args.rotary_dims / 2 % kWide == 0 && args.head_dim % kWide == 0 &&
                    rows_aligned(args.x, args.x_stride, kWide) && rows_aligned(args.y, args.y_stride, kWide);
  if (wide && args.rotary_dims > 0) {
    rotary_kernel<T, kWide><<<blocks, threads, 0, cuda_stream(ctx)>>>(args, frequencies);
    MATVLM_LAUNCH_CHECK();
  } else if (args.rotary_dims > 0) {
    rotary_kernel<T, 1><<<blocks, threads, 0, cuda_stream(ctx)>>>(args, frequencies);
    MATVLM_LAUNCH_CHECK();
  }
  if (args.x == args.y || args.rotary_dims == args.head_dim) return;
  pass_kernel<<<static_cast<unsigned>(args.tokens), kThreads, 0, cuda_stream(ctx)>>>(args);
  MATVLM_LAUNCH_CHECK();
}
template void rotary_cuda<float>(Context&, const RotaryArgs<float>&);
template void rotary_cuda<bf16>(Context&, const RotaryArgs<bf16>&);

}  // namespace matvlm
