// Attention of a few queries against many keys (decoding with a cache). All query heads of a key head and all queries
// of a sequence are rows of one 16-row tile, so keys and values are read once; the keys are split over blocks and, in a
// block, over warps that each walk their own tiles of 16 keys. The parts are put together in the order of the keys:
// warps in shared memory, blocks by a second kernel. So the result does not depend on who is first.
#include <cmath>

#include "autograd/ops/attention_mma.cuh"
#include "autograd/ops/attention_pages.h"

namespace matvlm::attention_kernels {
namespace {

constexpr int kDecodeRows = 16;
constexpr int kDecodeKeys = 16;  // of a warp's tile
constexpr int kDecodeWarps = kMmaThreads / 32;
constexpr int kStepKeys = kDecodeKeys * kDecodeWarps;  // of a block's step

struct Decode {
  Bf16Forward args;
  AttentionPages pages;  // kPaged only
  bool k_vectors, v_vectors;
  int splits;
  int row_tiles;
  // Per split, sequence, key head, row: P sums, then maximum and sum of the weights relative to it.
  float* parts;

  __host__ __device__ int64_t part_size() const { return args.shape.head_dim + 2; }
  __host__ __device__ int64_t rows() const { return static_cast<int64_t>(row_tiles) * kDecodeRows; }
  __device__ float* part(int64_t split, int64_t sequence, int64_t kv, int64_t row) const {
    const int64_t at = ((split * args.ranges.batch + sequence) * args.shape.kv_heads + kv) * rows() + row;
    return parts + at * part_size();
  }
};

// Row r of a key head: query r / group, head kv * group + r % group.
struct DecodeSequence {
  int64_t q_begin, queries, k_begin, keys, group;
  bool causal;
  __device__ DecodeSequence(const Bf16Forward& a, int64_t b)
      : q_begin(a.ranges.q_begin[b]),
        queries(a.ranges.q_end[b] - q_begin),
        k_begin(a.ranges.k_begin[b]),
        keys(a.ranges.k_end[b] - k_begin),
        group(a.shape.heads / a.shape.kv_heads),
        causal(a.shape.causal) {}
  __device__ int64_t rows() const { return queries * group; }
  // Keys that a row sees; rows past the end count as the last.
  __device__ int64_t visible(int64_t row) const { return causal ? min(keys, keys - queries + row / group + 1) : keys; }
};

// The keys of one head of a sequence from `key` on, and the values; in pages, a tile of 16 lies in one of them.
struct DecodeTile {
  HeadRows k, v;
};
template <bool kPaged>
__device__ DecodeTile decode_tile(const Decode& d, const DecodeSequence& sequence, int64_t column, int64_t key) {
  const Bf16Forward& a = d.args;
  if constexpr (kPaged) {
    const unsigned rows = static_cast<unsigned>(d.pages.rows);
    const unsigned page = static_cast<unsigned>(key) / rows;
    const unsigned row = static_cast<unsigned>(key) - page * rows;
    const bf16* at = reinterpret_cast<const bf16*>(d.pages.table[blockIdx.z * d.pages.width + page]) + column;
    return {{at + d.pages.k_offset + row * a.k_stride, a.k_stride, d.k_vectors},
            {at + d.pages.v_offset + row * a.v_stride, a.v_stride, d.v_vectors}};
  } else {
    const int64_t row = sequence.k_begin + key;
    return {{a.k + row * a.k_stride + column, a.k_stride, d.k_vectors},
            {a.v + row * a.v_stride + column, a.v_stride, d.v_vectors}};
  }
}

// One warp's running softmax over its tiles; two rows a thread, lane / 4 and 8 more.
template <int kDim>
struct DecodeState {
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {};  // of the thread's own columns
  float out[kDim / 8][4] = {};

  // visible: keys of this tile that the thread's rows see.
  __device__ void add(const mma::Tile<kDim>& k, const mma::Tile<kDim>& v, const unsigned (&q)[kDim / 16][4],
                      const int64_t (&visible)[2], float factor, int lane) {
    float s[kDecodeKeys / 8][4] = {};
    multiply_rows<kDim, kDecodeKeys>(s, q, k, lane);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float m = max[half];
#pragma unroll
      for (int n = 0; n < kDecodeKeys / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[n][2 * half + e];
          if (n * 8 + lane % 4 * 2 + e >= visible[half]) x = -INFINITY;
          m = fmaxf(m, x);
        }
      }
      m = fmaxf(m, __shfl_xor_sync(0xffffffffU, m, 1));
      m = fmaxf(m, __shfl_xor_sync(0xffffffffU, m, 2));
      // A row may have seen no key yet: any finite number does as its maximum then.
      const float offset = m == -INFINITY ? 0.0F : m * factor;
      const float shrink = mma::exp2_approx(fmaf(max[half], factor, -offset));
      max[half] = m;
      sum[half] *= shrink;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        out[n][2 * half] *= shrink;
        out[n][2 * half + 1] *= shrink;
      }
#pragma unroll
      for (int n = 0; n < kDecodeKeys / 8; ++n) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          s[n][e] = mma::exp2_approx(fmaf(s[n][e], factor, -offset));
          sum[half] += s[n][e];
        }
      }
    }
    multiply_weights<kDim, kDecodeKeys>(out, s, v, lane);
  }
};

// A warp's part in shared memory: kDim sums a row, then all maxima, then all sums of weights.
template <int kDim>
constexpr int kWarpPart = kDecodeRows*(kDim + 2);

template <int kDim>
__device__ void put_part(float* part, const DecodeState<kDim>& state, int lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    float sum = state.sum[half];
    sum += __shfl_xor_sync(0xffffffffU, sum, 1);
    sum += __shfl_xor_sync(0xffffffffU, sum, 2);
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      part[row * kDim + n * 8 + lane % 4 * 2] = state.out[n][2 * half];
      part[row * kDim + n * 8 + lane % 4 * 2 + 1] = state.out[n][2 * half + 1];
    }
    if (lane % 4 == 0) {
      part[kDecodeRows * kDim + row] = state.max[half];
      part[kDecodeRows * (kDim + 1) + row] = sum;
    }
  }
}

// What a part counts against the common maximum; 0 where it has seen no key. Logits that are NaN leave the maximum
// alone but not the sum: such a part has to be seen.
__device__ inline float part_weight(float max, float sum, float common, float factor) {
  if (max == -INFINITY) return sum == 0.0F ? 0.0F : sum;
  return mma::exp2_approx((max - common) * factor);
}

template <int kDim, bool kPaged>
__global__ void __launch_bounds__(kMmaThreads, 3) decode_kernel(Decode d) {
  extern __shared__ uint4 mma_shared[];
  using Tile = mma::Tile<kDim>;
  constexpr int kTile = Tile::elements(kDecodeKeys);
  static_assert(kDecodeRows == kDecodeKeys);
  const Bf16Forward& a = d.args;
  const DecodeSequence sequence(a, blockIdx.z);
  const int64_t kv = blockIdx.y / d.row_tiles;
  const int64_t first_row = static_cast<int64_t>(blockIdx.y % d.row_tiles) * kDecodeRows;
  if (first_row >= sequence.rows()) return;
  const int p = static_cast<int>(a.shape.head_dim);
  const float factor = static_cast<float>(a.shape.scale) * kLog2E;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;

  // The rows of this tile lie `stride` apart only within a query: they are loaded element by element.
  bf16* q_tile = reinterpret_cast<bf16*>(mma_shared);
  for (int i = static_cast<int>(threadIdx.x); i < kDecodeRows * kDim; i += kMmaThreads) {
    const int64_t row = first_row + i / kDim;
    const int column = i % kDim;
    bf16 value(0.0F);
    if (row < sequence.rows() && column < p) {
      const int64_t head = kv * sequence.group + row % sequence.group;
      value = a.q[(sequence.q_begin + row / sequence.group) * a.q_stride + head * p + column];
    }
    q_tile[i / kDim * Tile::kStride + column] = value;
  }
  __syncthreads();
  unsigned q[kDim / 16][4];
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) Tile(q_tile).load_a(q[i], 0, i * 16, lane);

  // Keys of this block, of which the warps take tiles in turn.
  const int64_t steps = (sequence.keys + kStepKeys - 1) / kStepKeys;
  const int64_t share = (steps + d.splits - 1) / d.splits * kStepKeys;
  const int64_t begin = blockIdx.x * share;
  const int64_t end = min(sequence.keys, begin + share);
  bf16* tiles = q_tile + kTile + warp * 4 * kTile;  // two stages of k and v
  const auto load_stage = [&](int64_t key, int stage) {
    bf16* tile = tiles + stage * 2 * kTile;
    const DecodeTile from = decode_tile<kPaged>(d, sequence, kv * p, key);
    load_rows<kDecodeKeys, kDim, 32>(tile, from.k, end - key, p, lane);
    load_rows<kDecodeKeys, kDim, 32>(tile + kTile, from.v, end - key, p, lane);
  };
  DecodeState<kDim> state;
  const int64_t start = begin + warp * kDecodeKeys;
  if (start < end) load_stage(start, 0);
  mma::copy_async_commit();
  int stage = 0;
  for (int64_t key = start; key < end; key += kStepKeys, stage ^= 1) {
    if (key + kStepKeys < end) load_stage(key + kStepKeys, stage ^ 1);
    mma::copy_async_commit();
    mma::copy_async_wait<1>();
    __syncwarp();
    const int64_t row = first_row + lane / 4;
    const int64_t visible[2] = {sequence.visible(row) - key, sequence.visible(row + 8) - key};
    const bf16* tile = tiles + stage * 2 * kTile;
    state.add(Tile(tile), Tile(tile + kTile), q, visible, factor, lane);
    __syncwarp();  // the next turn loads into this stage
  }
  mma::copy_async_wait<0>();
  __syncthreads();  // the parts take the place of the tiles

  float* parts = reinterpret_cast<float*>(mma_shared);
  put_part<kDim>(parts + warp * kWarpPart<kDim>, state, lane);
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kDecodeRows * p; i += kMmaThreads) {
    const int row = i / p;
    const int column = i % p;
    if (first_row + row >= sequence.rows()) break;
    const float* max = parts + kDecodeRows * kDim + row;
    float common = -INFINITY;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) common = fmaxf(common, max[w * kWarpPart<kDim>]);
    float out = 0.0F;
    float sum = 0.0F;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      const float* part = parts + w * kWarpPart<kDim>;
      const float weight = part_weight(max[w * kWarpPart<kDim>], part[kDecodeRows * (kDim + 1) + row], common, factor);
      out = fmaf(weight, part[row * kDim + column], out);
      sum = fmaf(weight, part[kDecodeRows * (kDim + 1) + row], sum);
    }
    float* to = d.part(blockIdx.x, blockIdx.z, kv, first_row + row);
    to[column] = out;
    if (column == 0) {
      to[p] = common;
      to[p + 1] = sum;
    }
  }
}

// One warp a row: the parts of all splits, in order.
__global__ void __launch_bounds__(kMmaThreads) combine_kernel(Decode d) {
  const Bf16Forward& a = d.args;
  const DecodeSequence sequence(a, blockIdx.z);
  const int64_t kv = blockIdx.y;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kDecodeWarps + threadIdx.x / 32;
  if (row >= sequence.rows()) return;
  const int p = static_cast<int>(a.shape.head_dim);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float factor = static_cast<float>(a.shape.scale) * kLog2E;
  float common = -INFINITY;
  for (int s = 0; s < d.splits; ++s) common = fmaxf(common, d.part(s, blockIdx.z, kv, row)[p]);
  float sum = 0.0F;
  float out[kMaxHeadDim / 32] = {};
  for (int s = 0; s < d.splits; ++s) {
    const float* part = d.part(s, blockIdx.z, kv, row);
    const float weight = part_weight(part[p], part[p + 1], common, factor);
    sum = fmaf(weight, part[p + 1], sum);
#pragma unroll
    for (int i = 0; i < kMaxHeadDim / 32; ++i) {
      if (lane + 32 * i < p) out[i] = fmaf(weight, part[lane + 32 * i], out[i]);
    }
  }
  const int64_t token = sequence.q_begin + row / sequence.group;
  const int64_t head = kv * sequence.group + row % sequence.group;
#pragma unroll
  for (int i = 0; i < kMaxHeadDim / 32; ++i) {
    if (lane + 32 * i < p) a.out[token * a.out_stride + head * p + lane + 32 * i] = bf16(out[i] / sum);
  }
  if (a.lse != nullptr && lane == 0) {
    a.lse[head * a.tokens + token] = common * static_cast<float>(a.shape.scale) + logf(sum);
  }
}

// d.args, d.pages and the alignment are there; the rest follows.
template <int kDim, bool kPaged>
void launch_decode(Context& ctx, Decode d) {
  const AttentionShape& shape = d.args.shape;
  const AttentionRanges& r = d.args.ranges;
  const int64_t group = shape.heads / shape.kv_heads;
  d.row_tiles = static_cast<int>((r.longest_q * group + kDecodeRows - 1) / kDecodeRows);
  if (r.batch == 0 || d.row_tiles == 0) return;
  // Enough blocks for every multiprocessor to have several, but at least four steps of keys each.
  const int64_t others = r.batch * shape.kv_heads * d.row_tiles;
  const int64_t wanted = (6 * ctx.cuda()->multiprocessors() + others - 1) / others;
  const int64_t most = (r.longest_k + 4 * kStepKeys - 1) / (4 * kStepKeys);
  d.splits = static_cast<int>(wanted < most ? wanted : most);
  const Tensor parts = Tensor::empty(ctx, {d.splits * r.batch * shape.kv_heads * d.rows() * d.part_size()}, DType::f32);
  d.parts = parts.data<float>();
  const dim3 grid = attention_grid(r, d.splits, 1, shape.kv_heads * d.row_tiles);
  constexpr int64_t kTiles = (1 + 4 * kDecodeWarps) * mma::Tile<kDim>::elements(kDecodeKeys);
  static_assert(kTiles * 2 >= kDecodeWarps * kWarpPart<kDim> * 4);
  launch_mma(ctx, decode_kernel<kDim, kPaged>, grid, kTiles, 0, d);
  const dim3 rows = attention_grid(r, r.longest_q * group, kDecodeWarps, shape.kv_heads);
  launch_mma(ctx, combine_kernel, rows, 0, 0, d);
}

}  // namespace

template <int kDim>
void forward_decode(Context& ctx, const Bf16Forward& args) {
  Decode d{};
  d.args = args;
  d.k_vectors = aligned_heads(args.k, args.k_stride, args.shape.head_dim, 8);
  d.v_vectors = aligned_heads(args.v, args.v_stride, args.shape.head_dim, 8);
  launch_decode<kDim, false>(ctx, d);
}
template void forward_decode<32>(Context&, const Bf16Forward&);
template void forward_decode<64>(Context&, const Bf16Forward&);
template void forward_decode<80>(Context&, const Bf16Forward&);
template void forward_decode<96>(Context&, const Bf16Forward&);
template void forward_decode<128>(Context&, const Bf16Forward&);

template <int kDim>
void forward_decode_paged(Context& ctx, const Bf16Forward& args, const AttentionPages& pages) {
  Decode d{};
  d.args = args;
  d.pages = pages;
  // Pages start at multiples of 256 bytes.
  const auto vectors = [&](int64_t offset, int64_t stride) {
    return offset % 8 == 0 && stride % 8 == 0 && args.shape.head_dim % 8 == 0;
  };
  d.k_vectors = vectors(pages.k_offset, args.k_stride);
  d.v_vectors = vectors(pages.v_offset, args.v_stride);
  launch_decode<kDim, true>(ctx, d);
}
template void forward_decode_paged<32>(Context&, const Bf16Forward&, const AttentionPages&);
template void forward_decode_paged<64>(Context&, const Bf16Forward&, const AttentionPages&);
template void forward_decode_paged<80>(Context&, const Bf16Forward&, const AttentionPages&);
template void forward_decode_paged<96>(Context&, const Bf16Forward&, const AttentionPages&);
template void forward_decode_paged<128>(Context&, const Bf16Forward&, const AttentionPages&);

}  // namespace matvlm::attention_kernels
