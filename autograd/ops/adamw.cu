// AdamW on the GPU: one launch over the whole arenas, 16 bytes a load of the float32 ones. Padding is all zeros and
// stays so.
#include "autograd/ops/adamw_device.h"
#include "autograd/ops/adamw_math.h"
#include "autograd/ops/elementwise.cuh"
#include "autograd/ops/pack.cuh"
#include "autograd/split_float.h"

namespace matvlm {
namespace {

constexpr int64_t kUpBits = Float32View::kUpBits;
constexpr int kAdamThreads = 256;
constexpr int kWidth = 4;  // elements of a pack; segments begin at multiples of it
constexpr int kPacks = 2;  // a thread has under way
constexpr int64_t kBlockElements = int64_t{kAdamThreads} * kWidth * kPacks;

// The segment that holds element i.
__device__ const AdamWSegment* segment_of(const AdamWArenas& a, int64_t i) {
  int64_t low = 0;
  int64_t high = a.segment_count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (a.segments[middle].begin <= i) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return a.segments + low;
}

// Four masters as they lie in memory, and their way to float and back.
struct WholeMasters {
  Pack<float, kWidth> values;

  __device__ void load(const AdamWArenas& a, int64_t i, bool valid) { values = values.load_if(valid, a.master + i); }
  __device__ void get(float (&p)[kWidth]) const { values.unpack(p); }
  // All lanes of a warp together.
  static __device__ void store(const AdamWArenas& a, int64_t i, bool valid, const float (&p)[kWidth]) {
    if (!valid) return;
    Pack<float, kWidth>::pack(p).store(a.master + i);
    if (a.compute != nullptr) Pack<bf16, kWidth>::pack(p).store(a.compute + i);
  }
};

struct SplitMasters {
  using Halves = Pack<bf16, kWidth>;
  Halves high, low;
  unsigned up;  // in its four lowest bits

  __device__ void load(const AdamWArenas& a, int64_t i, bool valid) {
    high = Halves::load_if(valid, a.compute + i);
    low = Halves::load_if(valid, reinterpret_cast<const bf16*>(a.low) + i);
    up = valid ? static_cast<unsigned>(a.up[i / kUpBits]) >> (i % kUpBits) : 0U;
  }
  __device__ void get(float (&p)[kWidth]) const {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const unsigned shift = 16 * (j % 2);
      p[j] = join_float({static_cast<uint16_t>((j < 2 ? high.raw.x : high.raw.y) >> shift),
                         static_cast<uint16_t>((j < 2 ? low.raw.x : low.raw.y) >> shift), (up >> j & 1) != 0});
    }
  }
  // A byte of `up` belongs to two lanes, of which the even one writes it.
  static __device__ void store(const AdamWArenas& a, int64_t i, bool valid, const float (&p)[kWidth]) {
    SplitFloat s[kWidth];
    unsigned up = 0;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      s[j] = split_float(p[j]);
      up |= (s[j].up ? 1U : 0U) << j;
    }
    up |= __shfl_down_sync(0xffffffffU, up, 1) << kWidth;
    if (!valid) return;
    const auto pair = [](unsigned first, unsigned second) { return first | second << 16; };
    Halves{make_uint2(pair(s[0].high, s[1].high), pair(s[2].high, s[3].high))}.store(a.compute + i);
    Halves{make_uint2(pair(s[0].low, s[1].low), pair(s[2].low, s[3].low))}.store(reinterpret_cast<bf16*>(a.low) + i);
    if (threadIdx.x % 2 == 0) a.up[i / kUpBits] = static_cast<uint8_t>(up);
  }
};

template <class Masters>
__global__ void __launch_bounds__(kAdamThreads) adamw_kernel(AdamWArenas a, AdamWFactors<float> factors) {
  using Floats = Pack<float, kWidth>;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kBlockElements;
  const int64_t begin = first + threadIdx.x * kWidth;
  Floats g[kPacks], m[kPacks], v[kPacks];
  Masters p[kPacks];
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int64_t i = begin + int64_t{k} * kAdamThreads * kWidth;
    const bool valid = i < a.n;
    g[k] = Floats::load_if(valid, a.grad + i);
    p[k].load(a, i, valid);
    m[k] = Floats::load_if(valid, a.moment1 + i);
    v[k] = Floats::load_if(valid, a.moment2 + i);
  }
  // Most blocks lie in one segment.
  const AdamWSegment* const found = segment_of(a, first);
  const AdamWSegment of_block = *found;
  const bool whole = found + 1 == a.segments + a.segment_count || found[1].begin >= first + kBlockElements;
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int64_t i = begin + int64_t{k} * kAdamThreads * kWidth;
    const bool valid = i < a.n;
    const AdamWSegment segment = whole ? of_block : *segment_of(a, i);
    float gs[kWidth], ps[kWidth], ms[kWidth], vs[kWidth];
    g[k].unpack(gs);
    p[k].get(ps);
    m[k].unpack(ms);
    v[k].unpack(vs);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      ps[j] = adamw_element(factors, segment.decay != 0, ps[j], gs[j], ms[j], vs[j]);
    }
    Masters::store(a, i, valid, ps);
    if (!valid) continue;
    Floats::pack(ms).store(a.moment1 + i);
    Floats::pack(vs).store(a.moment2 + i);
    if (segment.float32 >= 0) Floats::pack(ps).store(a.float32 + segment.float32 + (i - segment.begin));
  }
}

}  // namespace

void adamw_cuda(Context& ctx, const AdamWArenas& a, const AdamWStep& step) {
  if (a.n == 0) return;
  check(a.n % kUpBits == 0, "[adamw] arenas of ", a.n, " elements, expected a multiple of ", kUpBits);
  const auto blocks = static_cast<unsigned>((a.n + kBlockElements - 1) / kBlockElements);
  const auto kernel = a.master != nullptr ? adamw_kernel<WholeMasters> : adamw_kernel<SplitMasters>;
  kernel<<<blocks, kAdamThreads, 0, cuda_stream(ctx)>>>(a, adamw_factors<float>(step));
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm
