// What the tensor-core kernels of the SSD share: chunks of 64 tokens, tiles of operands, fragments to memory.
//
// Inside a chunk, with cum_i = log2 of the decay from before its first token to after token i, L_ij = 2^(cum_i - cum_j)
// for i >= j and S the state before the chunk:
//   y_i = sum_{j <= i} L_ij dt_j (C_i . B_j) x_j + 2^cum_i S C_i + D x_i,
//   S'  = 2^cum_last S + sum_j 2^(cum_last - cum_j) dt_j x_j (outer) B_j
// so everything is a product of small matrices. Operands are bf16, sums and states float32; a state is rounded to bf16
// only where it is an operand. P and N are the padded widths (multiples of 16) of the kernels, zeros fill the rest.
#pragma once

#include <cstdint>

#include "autograd/ops/mma.cuh"
#include "core/dtype.h"

namespace matvlm::ssd_chunk {

using mma::Tile;

constexpr int kChunk = 64;
constexpr int kTileRows = 16;                  // rows of a fragment
constexpr int kRowTiles = kChunk / kTileRows;  // of a chunk
constexpr float kSmallestStepDecay = -72.0F;   // log2; one step's decay is cut off here, at 2e-22, so that cum keeps
                                               // its resolution after a step that forgets everything

// A chunk of a sequence. Chunk i of sequence b has the slot cu[b] / 64 + b + i: an upper bound that needs no prefix
// sum, so some slots have no tokens.
struct ChunkInfo {
  int64_t first;  // token
  int32_t count;  // tokens, at most 64; 0: nothing here
};
__host__ __device__ inline int64_t first_slot(int64_t begin, int64_t sequence) { return begin / kChunk + sequence; }

// An operand [T, groups*width] of which head h reads group h / heads_per_group.
struct Rows {
  const bf16* data = nullptr;
  int64_t stride = 0;
  int heads_per_group = 1;
  int width = 0;
  bool vectors = false;  // 16-byte loads are possible
  __device__ const bf16* at(int64_t t, int h) const {
    return data + t * stride + static_cast<int64_t>(h / heads_per_group) * width;
  }
};

// A gradient or output of that form.
struct Output {
  bf16* data = nullptr;  // null: not wanted
  int64_t stride = 0;
  int heads_per_group = 1;
  int width = 0;
  bool accumulate = false;
  bool vectors = false;      // 8-byte stores are possible
  float* partial = nullptr;  // [T, parts, padded width]: sums over the heads of one block, to be added up later
};

struct Problem {
  int heads = 0;
  int head_dim = 0, state = 0;  // P and N without padding
  int64_t slots = 0;
  const int64_t* cu = nullptr;
  const ChunkInfo* chunks = nullptr;  // [slots]
  const float* step = nullptr;        // [H, slots, 64] dt; 0 past the end of a chunk
  const float* cum = nullptr;         // [H, slots, 64] log2 of the decay; past the end the last value
  Rows x, b, c, dy;
};

// Rows of a chunk whose rows are not aligned, element by element. Out of line: it is rare, and would fill the
// instruction cache.
template <int kWidth, int kThreads>
__device__ __noinline__ void load_tile_slowly(bf16* to, const bf16* from, int64_t stride, int width, int count,
                                              int thread) {
#pragma unroll 1
  for (int i = thread; i < kChunk * kWidth; i += kThreads) {
    const int row = i / kWidth;
    const int column = i % kWidth;
    bf16 value;
    value.bits = row < count && column < width ? from[row * stride + column].bits : uint16_t{0};
    to[row * Tile<kWidth>::kStride + column] = value;
  }
}

// Rows of a chunk into shared memory, asynchronously where they are aligned; zeros past `count` and past the width.
template <int kWidth, int kThreads>
__device__ void load_tile(bf16* to, const Rows& rows, int64_t first, int count, int h, int thread) {
  constexpr int kVectors = kWidth / 8;
  const bf16* from = rows.at(first, h);
  const auto stride = static_cast<int>(rows.stride);  // 64 rows of it fit 31 bits
  if (!rows.vectors) return load_tile_slowly<kWidth, kThreads>(to, from, stride, rows.width, count, thread);
  const unsigned base = mma::shared_address(to);
#pragma unroll 4
  for (int i = thread; i < kChunk * kVectors; i += kThreads) {
    const int row = i / kVectors;
    const int column = i % kVectors * 8;
    const bool valid = row < count && column < rows.width;
    mma::copy_async_16(base + static_cast<unsigned>((row * Tile<kWidth>::kStride + column) * 2),
                       from + (valid ? row * stride + column : 0), valid);
  }
}

// dt and cum of one head's chunk.
template <int kThreads>
__device__ void load_steps(float* cum, float* step, const Problem& p, int64_t slot, int h, int thread) {
  const int64_t from = (static_cast<int64_t>(h) * p.slots + slot) * kChunk;
  for (int i = thread; i < kChunk; i += kThreads) {
    mma::copy_async_4(mma::shared_address(cum + i), p.cum + from + i, true);
    mma::copy_async_4(mma::shared_address(step + i), p.step + from + i, true);
  }
}

// s = A tile^T for 16 rows of A (fragments a) and the 16 rows of `tile` from `row` on.
template <int K>
__device__ void scores(float (&s)[2][4], const unsigned (&a)[K / 16][4], const Tile<K>& tile, int row, int lane) {
#pragma unroll
  for (int i = 0; i < 4; ++i) s[0][i] = s[1][i] = 0.0F;
#pragma unroll
  for (int k = 0; k < K / 16; ++k) {
    unsigned b[4];
    tile.load_b(b, row, k * 16, lane);
    mma::multiply_add(s[0], a[k], b[0], b[1]);
    mma::multiply_add(s[1], a[k], b[2], b[3]);
  }
}

// sum += A tile for one fragment of A whose 16 columns are the rows of `tile` from `row` on.
template <int W>
__device__ void add_product(float (&sum)[W / 8][4], const unsigned (&a)[4], const Tile<W>& tile, int row, int lane) {
#pragma unroll
  for (int n = 0; n < W / 16; ++n) {
    unsigned b[4];
    tile.load_b_trans(b, row, n * 16, lane);
    mma::multiply_add(sum[2 * n], a, b[0], b[1]);
    mma::multiply_add(sum[2 * n + 1], a, b[2], b[3]);
  }
}

// sum += A tile^T for fragments a of 16 rows of A; the rows of `tile` become the columns of the result.
template <int K, int W>
__device__ void add_product_trans(float (&sum)[W / 8][4], const unsigned (&a)[K / 16][4], const Tile<K>& tile,
                                  int lane) {
#pragma unroll
  for (int k = 0; k < K / 16; ++k) {
#pragma unroll
    for (int n = 0; n < W / 16; ++n) {
      unsigned b[4];
      tile.load_b(b, n * 16, k * 16, lane);
      mma::multiply_add(sum[2 * n], a[k], b[0], b[1]);
      mma::multiply_add(sum[2 * n + 1], a[k], b[2], b[3]);
    }
  }
}

template <int K>
__device__ void load_rows(unsigned (&a)[K / 16][4], const Tile<K>& tile, int row, int lane) {
#pragma unroll
  for (int k = 0; k < K / 16; ++k) tile.load_a(a[k], row, k * 16, lane);
}

template <int kTiles>
__device__ void clear(float (&sum)[kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[n][i] = 0.0F;
  }
}

// The first kWidth columns of fragments that serve warps of two roles, so that both use the same registers.
template <int kWidth, int kTiles>
__device__ float (&columns_of(float (&sum)[kTiles][4]))[kWidth / 8][4] {
  static_assert(kWidth / 8 <= kTiles);
  return reinterpret_cast<float(&)[kWidth / 8][4]>(sum);
}

// Rows g and g + 8 of the fragments times two factors.
template <int kTiles>
__device__ void scale_rows(float (&sum)[kTiles][4], float upper, float lower) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    sum[n][0] *= upper;
    sum[n][1] *= upper;
    sum[n][2] *= lower;
    sum[n][3] *= lower;
  }
}

__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffU, x, 1);
  return x + __shfl_xor_sync(0xffffffffU, x, 2);
}

// Two neighbouring 8-column tiles of one row: afterwards each lane of a quad holds 4 neighbouring columns, from
// pair_column(t) on, so that the quad writes 32 bytes in a row.
__device__ inline uint2 pair_columns(unsigned left, unsigned right, int t) {
  const bool odd = (t & 1) != 0;
  const unsigned other = __shfl_xor_sync(0xffffffffU, odd ? left : right, 1);
  return odd ? make_uint2(other, right) : make_uint2(left, other);
}
__device__ inline int pair_column(int t) { return (t & 1) != 0 ? 8 + 2 * (t - 1) : 2 * t; }

__device__ inline void add_bf16(bf16* to, float value, bool accumulate) {
  *to = bf16(accumulate ? static_cast<float>(*to) + value : value);
}

// Two columns of rows `row` and `row + 8` where rows have any alignment and width, or are added to what is there. Out
// of line, see load_tile_slowly.
static __device__ __noinline__ void store_slowly(bf16* to, int64_t stride, int row, int count, int columns,
                                                 bool accumulate, float a, float b, float c, float d) {
  if (row < count && columns > 0) add_bf16(to, a, accumulate);
  if (row < count && columns > 1) add_bf16(to + 1, b, accumulate);
  if (row + 8 < count && columns > 0) add_bf16(to + 8 * stride, c, accumulate);
  if (row + 8 < count && columns > 1) add_bf16(to + 8 * stride + 1, d, accumulate);
}

// Fragments of 16 rows of a chunk, rows `row` and `row + 8` of this lane, to the columns of a group.
template <int W>
__device__ void store_rows(const float (&sum)[W / 8][4], const Output& out, int64_t first, int row, int count,
                           int64_t column, int t) {
  bf16* const to = out.data + first * out.stride + column;
  if (!out.vectors || out.accumulate || out.width % 16 != 0) {
    bf16* const corner = to + row * out.stride + 2 * t;
#pragma unroll
    for (int n = 0; n < W / 8; ++n) {
      store_slowly(corner + 8 * n, out.stride, row, count, out.width - 8 * n - 2 * t, out.accumulate, sum[n][0],
                   sum[n][1], sum[n][2], sum[n][3]);
    }
    return;
  }
  const auto stride = static_cast<int>(out.stride);
  bf16* const upper = to + row * stride + pair_column(t);
  bf16* const lower = upper + 8 * stride;
#pragma unroll
  for (int n = 0; n < W / 16; ++n) {
    if (16 * n >= out.width) break;
    const float* left = sum[2 * n];
    const float* right = sum[2 * n + 1];
    const uint2 a = pair_columns(mma::pack(left[0], left[1]), mma::pack(right[0], right[1]), t);
    const uint2 b = pair_columns(mma::pack(left[2], left[3]), mma::pack(right[2], right[3]), t);
    if (row < count) *reinterpret_cast<uint2*>(upper + 16 * n) = a;
    if (row + 8 < count) *reinterpret_cast<uint2*>(lower + 16 * n) = b;
  }
}

// The same as float32 into out.partial.
template <int W>
__device__ void store_partial(const float (&sum)[W / 8][4], const Output& out, int64_t first, int row, int count,
                              int64_t part, int64_t parts, int t) {
  float* const upper = out.partial + ((first + row) * parts + part) * W + 2 * t;
  float* const lower = upper + 8 * parts * W;
#pragma unroll
  for (int n = 0; n < W / 8; ++n) {
    if (row < count) *reinterpret_cast<float2*>(upper + 8 * n) = make_float2(sum[n][0], sum[n][1]);
    if (row + 8 < count) *reinterpret_cast<float2*>(lower + 8 * n) = make_float2(sum[n][2], sum[n][3]);
  }
}

// A state in fragments, 16 rows per warp: the warp's rows are row (g) and row + 8; its N columns are those from `first`
// on.
template <int N>
__device__ void load_state(float (&state)[N / 8][4], const float* from, int row, int rows, int columns, int t,
                           int first = 0) {
#pragma unroll
  for (int n = 0; n < N / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = row + 8 * (i / 2);
      const int k = first + 8 * n + 2 * t + i % 2;
      state[n][i] = from != nullptr && r < rows && k < columns ? from[static_cast<int64_t>(r) * columns + k] : 0.0F;
    }
  }
}
template <int N>
__device__ void store_state(const float (&state)[N / 8][4], float* to, int row, int rows, int columns, int t,
                            int first = 0) {
#pragma unroll
  for (int n = 0; n < N / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = row + 8 * (i / 2);
      const int k = first + 8 * n + 2 * t + i % 2;
      if (r < rows && k < columns) to[static_cast<int64_t>(r) * columns + k] = state[n][i];
    }
  }
}
// Rounded, into device memory with kStride elements a row.
template <int N, int kStride>
__device__ void store_state_bf16(const float (&state)[N / 8][4], bf16* to, int row, int t) {
#pragma unroll
  for (int n = 0; n < N / 16; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float* left = state[2 * n] + 2 * half;
      const float* right = state[2 * n + 1] + 2 * half;
      const uint2 values = pair_columns(mma::pack(left[0], left[1]), mma::pack(right[0], right[1]), t);
      *reinterpret_cast<uint2*>(to + (row + 8 * half) * kStride + 16 * n + pair_column(t)) = values;
    }
  }
}
// Rounded, into shared memory.
template <int N>
__device__ void stage_state(const float (&state)[N / 8][4], bf16* to, int row, int t) {
  constexpr int kStride = Tile<N>::kStride;
#pragma unroll
  for (int n = 0; n < N / 8; ++n) {
    *reinterpret_cast<unsigned*>(to + row * kStride + 8 * n + 2 * t) = mma::pack(state[n][0], state[n][1]);
    *reinterpret_cast<unsigned*>(to + (row + 8) * kStride + 8 * n + 2 * t) = mma::pack(state[n][2], state[n][3]);
  }
}

// How a chunk enters a state: the forward state takes 2^(cum_last - cum_j) dt_j x_j (outer) B_j, the gradient of the
// state, going backward, 2^cum_i dy_i (outer) C_i. A lane gets the weights of its two tokens, 2 lane and 2 lane + 1.
template <bool kReverse>
__device__ float2 state_weights(const float* cum, const float* step, int lane) {
  const float2 own = reinterpret_cast<const float2*>(cum)[lane];
  if constexpr (kReverse) return {mma::exp2_approx(fminf(own.x, 0.0F)), mma::exp2_approx(fminf(own.y, 0.0F))};
  const float last = cum[kChunk - 1];
  const float2 dt = reinterpret_cast<const float2*>(step)[lane];
  return {mma::exp2_approx(fminf(last - own.x, 0.0F)) * dt.x, mma::exp2_approx(fminf(last - own.y, 0.0F)) * dt.y};
}

// A fragment whose columns are the tokens from 16 tile on, times their weights (own: state_weights). kForeign: another
// sequence's rows may lie past `count`, which become zeros; otherwise they are zeros.
template <bool kForeign>
__device__ void weigh_tokens(unsigned (&a)[4], float2 own, int tile, int count, int lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int holder = 8 * tile + 4 * half + lane % 4;  // the lane with the weights of this lane's two columns
    const float left = __shfl_sync(0xffffffffU, own.x, holder);
    const float right = __shfl_sync(0xffffffffU, own.y, holder);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      unsigned& pair = a[2 * half + i];
      pair = mma::pack(mma::low_half(pair) * left, mma::high_half(pair) * right);
      if (kForeign && count < kChunk) {
        pair &= (2 * holder < count ? 0xffffU : 0U) | (2 * holder + 1 < count ? 0xffff0000U : 0U);
      }
    }
  }
}

// state = decay state + (weights u)^T v: one warp, the 16 rows of the state that are the columns of u from `column` on.
// It meets no other warp: u is weighted in its fragments, not in shared memory. kForeign: as above, of u.
template <int P, int N, bool kReverse, bool kForeign>
__device__ void update_state(float (&state)[N / 8][4], const bf16* u, const bf16* v, const float* cum,
                             const float* step, int count, int column, int lane) {
  const float2 weights = state_weights<kReverse>(cum, step, lane);
  const float decay = mma::exp2_approx(fminf(cum[kChunk - 1], 0.0F));
  scale_rows(state, decay, decay);
  const Tile<P> left(u);
  const Tile<N> right(v);
#pragma unroll
  for (int k = 0; k < kRowTiles; ++k) {
    unsigned a[4];
    left.load_a_trans(a, k * 16, column, lane);
    weigh_tokens<kForeign>(a, weights, k, count, lane);
    add_product<N>(state, a, right, k * 16, lane);
  }
}

}  // namespace matvlm::ssd_chunk
