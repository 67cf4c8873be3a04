// Backward pass of the chunked SSD for one chunk and one head, or several heads that share a group, from the state
// before the chunk (S) and the gradient of the state after it (dS). With G_ij = L_ij (dy_i . x_j), i >= j:
//   dC_i = 2^cum_i S^T dy_i + sum_j G_ij dt_j B_j
//   dB_j = dt_j (2^(cum_last - cum_j) dS^T x_j + sum_i G_ij C_i)
//   dx_j = dt_j (2^(cum_last - cum_j) dS B_j + sum_i L_ij (C_i . B_j) dy_i) + D dy_j
// The gradient of one step's exponent dt_t A is the sum of everything that decays through step t; it is added up from
// its parts (M_ij = G_ij (C_i . B_j) dt_j with i >= t > j; from the old state to i >= t; from j < t to the new state;
// from the old to the new state), never as a difference of two large sums that share their diagonal.
#pragma once

#include "autograd/ops/hopper.cuh"
#include "autograd/ops/ssd_chunk.cuh"

namespace matvlm::ssd_chunk {

struct BackwardArgs {
  Problem problem;
  const float* a_log = nullptr;   // [H]
  const float* d = nullptr;       // [H]
  const bf16* states = nullptr;   // [slots, H, padded P, padded N] before each chunk
  const bf16* dstates = nullptr;  // the same, gradient of the state after each chunk
  Output dx, db, dc, ddt;         // ddt: width 1
  float* weight_sums = nullptr;   // [3, H, slots]: gradients of a_log, d, dt_bias
  int heads_per_block = 1;
};

// Boxes are 8 columns wider than a row, outside the tensor: that is the padding of the tiles. States: all of them as
// one matrix with N columns.
struct BackwardMaps {
  CUtensorMap x, dy, b, c, states, dstates;
};

// What the gradients of a head's time steps are added up from.
struct StepSums {
  float row_sum[kChunk];                // sum_{j < i} M_ij + what comes from the old state
  float column_sum[kRowTiles][kChunk];  // sum_{i > j} M_ij / dt_j over the rows of a warp
  float diagonal[kChunk];               // M_jj / dt_j
  float product[kChunk];                // x_j . dy_j
  float to_state[kChunk];               // what goes from j to the new state, / dt_j
  float state_dot[4];                   // <dS, S>, a part per warp
};

template <int P, int N>
struct BackwardShared {
  alignas(128) bf16 x[Tile<P>::elements(kChunk)];
  alignas(128) bf16 dy[Tile<P>::elements(kChunk)];
  alignas(128) bf16 b[Tile<N>::elements(kChunk)];
  alignas(128) bf16 c[Tile<N>::elements(kChunk)];
  alignas(128) bf16 state[Tile<N>::elements(P)];
  alignas(128) bf16 dstate[Tile<N>::elements(P)];
  alignas(128) float cum[kChunk];
  float step[kChunk];
  uint64_t full;  // all of the above, where they come by bulk copies
  StepSums sums;
};

// Padded [P, N] in device memory to a tile.
template <int P, int N, int kThreads>
__device__ void load_state_tile(bf16* to, const bf16* from, int thread) {
  constexpr int kVectors = N / 8;
#pragma unroll 4
  for (int i = thread; i < P * kVectors; i += kThreads) {
    const int row = i / kVectors;
    const int column = i % kVectors * 8;
    mma::copy_async_16(mma::shared_address(to + row * Tile<N>::kStride + column), from + row * N + column, true);
  }
}

// A float32 sum over heads is kept in fragments; the part of one head enters at the row's own scale s (2^cum, say):
// sum = (sum / s + part) s. Below 2^-40 a part cannot be seen in the sum.
struct RowScale {
  float down[2], up[2];
  __device__ RowScale(float exponent0, float exponent1) {
    const float e0 = fminf(fmaxf(exponent0, -40.0F), 0.0F);
    const float e1 = fminf(fmaxf(exponent1, -40.0F), 0.0F);
    up[0] = mma::exp2_approx(e0);
    up[1] = mma::exp2_approx(e1);
    down[0] = mma::exp2_approx(-e0);
    down[1] = mma::exp2_approx(-e1);
  }
};

// Row sums of sum * rows (fragments of A form), for rows g and g + 8; every lane of a quad gets them.
template <int W>
__device__ float2 row_dots(const float (&sum)[W / 8][4], const unsigned (&rows)[W / 16][4]) {
  float upper = 0.0F;
  float lower = 0.0F;
#pragma unroll
  for (int k = 0; k < W / 16; ++k) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const float* s = sum[2 * k + n];
      upper += s[0] * mma::low_half(rows[k][2 * n]) + s[1] * mma::high_half(rows[k][2 * n]);
      lower += s[2] * mma::low_half(rows[k][2 * n + 1]) + s[3] * mma::high_half(rows[k][2 * n + 1]);
    }
  }
  return make_float2(quad_sum(upper), quad_sum(lower));
}

// Of one block of scores, 16 rows i of the warp and 16 columns j from 16 tile on: g = dy_i . x_j becomes G_ij dt_j and
// enters the sums over M; cb = C_i . B_j.
template <bool kDiagonal, class Shared>
__device__ void weigh_scores(float (&g)[2][4], const float (&cb)[2][4], float (&m_rows)[2], Shared& sm, int tile,
                             const float (&cum_row)[2], int warp, int lane) {
  const int row = warp * kTileRows + lane / 4;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int column = tile * kTileRows + 8 * n + 2 * (lane % 4);
    const float2 cum = *reinterpret_cast<const float2*>(sm.cum + column);
    const float2 step = *reinterpret_cast<const float2*>(sm.step + column);
    float column_sum[2] = {0.0F, 0.0F};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float decay = mma::exp2_approx(fminf(cum_row[i / 2] - (i % 2 == 0 ? cum.x : cum.y), 0.0F));
      const float product = g[n][i];
      g[n][i] *= decay;
      float m = g[n][i] * cb[n][i];
      if constexpr (kDiagonal) {
        const int r = row + 8 * (i / 2);
        const int k = column + i % 2;
        if (r == k) {
          sm.sums.diagonal[k] = m;
          sm.sums.product[k] = product;
        }
        if (r <= k) m = 0.0F;
        if (r < k) g[n][i] = 0.0F;
      }
      g[n][i] *= i % 2 == 0 ? step.x : step.y;
      m_rows[i / 2] += m * (i % 2 == 0 ? step.x : step.y);
      column_sum[i % 2] += m;
    }
    // Both columns at once: after the first exchange even lanes have one and odd lanes the other.
    const bool upper = (lane & 4) != 0;
    float sum = upper ? column_sum[1] : column_sum[0];
    sum += __shfl_xor_sync(0xffffffffU, upper ? column_sum[0] : column_sum[1], 4);
    sum += __shfl_xor_sync(0xffffffffU, sum, 8);
    sum += __shfl_xor_sync(0xffffffffU, sum, 16);
    if (lane < 8) sm.sums.column_sum[warp][column + lane / 4] = sum;
  }
}

// A block of 16 x 16 sums as an A fragment.
__device__ inline void pack_scores(unsigned (&a)[4], const float (&s)[2][4]) {
  a[0] = mma::pack(s[0][0], s[0][1]);
  a[1] = mma::pack(s[0][2], s[0][3]);
  a[2] = mma::pack(s[1][0], s[1][1]);
  a[3] = mma::pack(s[1][2], s[1][3]);
}

// dC of the warp's 16 rows i, and the sums over M.
template <int P, int N, bool kFirst>
__device__ void add_dc(float (&dc)[N / 8][4], BackwardShared<P, N>& sm, int warp, int lane) {
  const int t = lane % 4;
  const int row = warp * kTileRows + lane / 4;
  const Tile<P> x(sm.x);
  const Tile<N> b(sm.b);
  unsigned c_rows[N / 16][4];
  unsigned dy_rows[P / 16][4];
  load_rows<N>(c_rows, Tile<N>(sm.c), warp * kTileRows, lane);
  load_rows<P>(dy_rows, Tile<P>(sm.dy), warp * kTileRows, lane);
  const float cum_row[2] = {sm.cum[row], sm.cum[row + 8]};
  const RowScale scale(cum_row[0], cum_row[1]);
  float2 before = make_float2(0.0F, 0.0F);
  if constexpr (!kFirst) {
    before = row_dots<N>(dc, c_rows);
    scale_rows(dc, scale.down[0], scale.down[1]);
  }
  const Tile<N> state(sm.state);
#pragma unroll
  for (int k = 0; k < P / 16; ++k) add_product<N>(dc, dy_rows[k], state, k * 16, lane);
  if constexpr (kFirst) {
    scale_rows(dc, mma::exp2_approx(fminf(cum_row[0], 0.0F)), mma::exp2_approx(fminf(cum_row[1], 0.0F)));
  } else {
    scale_rows(dc, scale.up[0], scale.up[1]);
  }
  const float2 after = row_dots<N>(dc, c_rows);
  float rows[2] = {after.x - before.x, after.y - before.y};

  float m_rows[2] = {0.0F, 0.0F};
  const auto block = [&](int j, auto on_diagonal) {
    constexpr bool kDiagonal = on_diagonal;
    float cb[2][4];
    float g[2][4];
    scores<N>(cb, c_rows, b, j * kTileRows, lane);
    scores<P>(g, dy_rows, x, j * kTileRows, lane);
    weigh_scores<kDiagonal>(g, cb, m_rows, sm, j, cum_row, warp, lane);
    unsigned a[4];
    pack_scores(a, g);
    add_product<N>(dc, a, b, j * kTileRows, lane);
  };
#pragma unroll 1
  for (int j = 0; j < warp; ++j) block(j, std::false_type{});
  block(warp, std::true_type{});
  rows[0] += quad_sum(m_rows[0]);
  rows[1] += quad_sum(m_rows[1]);
  if (t == 0) {
    sm.sums.row_sum[row] = rows[0];
    sm.sums.row_sum[row + 8] = rows[1];
  }
}

// Decayed scores of rows j against rows i: L_ij s_ji, masked on the diagonal block.
template <bool kDiagonal>
__device__ void decay_transposed(float (&s)[2][4], const float* cum, int row, int column, const float (&cum_row)[2],
                                 int t) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int first = column + 8 * n + 2 * t;
    const float2 own = *reinterpret_cast<const float2*>(cum + first);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      s[n][i] *= mma::exp2_approx(fminf((i % 2 == 0 ? own.x : own.y) - cum_row[i / 2], 0.0F));
      if (kDiagonal && first + i % 2 < row + 8 * (i / 2)) s[n][i] = 0.0F;
    }
  }
}

// dB of the warp's 16 rows j, added to the sum over heads unless this is the first. The sum is scaled to where a
// product belongs (2^(cum_last - cum_j) dt_j, then dt_j) and back, instead of keeping the head's own part beside it.
template <int P, int N, bool kFirst>
__device__ void add_db(float (&db)[N / 8][4], const BackwardShared<P, N>& sm, int warp, int lane) {
  const int t = lane % 4;
  const int row = warp * kTileRows + lane / 4;
  const Tile<P> dy(sm.dy);
  const Tile<N> c(sm.c);
  const float last = sm.cum[kChunk - 1];
  const float cum_row[2] = {sm.cum[row], sm.cum[row + 8]};
  const RowScale scale(last - cum_row[0], last - cum_row[1]);
  constexpr float kSmallestStep = kFirst ? 0.0F : 0x1p-40F;
  const float step[2] = {fmaxf(sm.step[row], kSmallestStep), fmaxf(sm.step[row + 8], kSmallestStep)};
  unsigned x_rows[P / 16][4];
  load_rows<P>(x_rows, Tile<P>(sm.x), warp * kTileRows, lane);
  if constexpr (!kFirst) scale_rows(db, scale.down[0] / step[0], scale.down[1] / step[1]);
  const Tile<N> dstate(sm.dstate);
#pragma unroll
  for (int k = 0; k < P / 16; ++k) add_product<N>(db, x_rows[k], dstate, k * 16, lane);
  if constexpr (kFirst) {
    scale_rows(db, mma::exp2_approx(fminf(last - cum_row[0], 0.0F)), mma::exp2_approx(fminf(last - cum_row[1], 0.0F)));
  } else {
    scale_rows(db, scale.up[0], scale.up[1]);
  }
  const auto block = [&](int i, auto on_diagonal) {
    float s[2][4];
    unsigned a[4];
    scores<P>(s, x_rows, dy, i * kTileRows, lane);
    decay_transposed<on_diagonal>(s, sm.cum, row, i * kTileRows, cum_row, t);
    pack_scores(a, s);
    add_product<N>(db, a, c, i * kTileRows, lane);
  };
  block(warp, std::true_type{});
#pragma unroll 1
  for (int i = warp + 1; i < kRowTiles; ++i) block(i, std::false_type{});
  scale_rows(db, step[0], step[1]);
}

// dx of the warp's 16 rows j, and what goes from them to the new state. b_rows: those rows of B; score(s, i) gives
// their products with the 16 rows of C from 16 i on.
template <int P, int N, bool kFirst, class Shared, class Score>
__device__ void add_dx(float (&dx)[P / 8][4], Shared& sm, const unsigned (&b_rows)[N / 16][4], Score&& score,
                       float skip, int warp, int lane) {
  const int t = lane % 4;
  const int row = warp * kTileRows + lane / 4;
  const Tile<P> dy(sm.dy);
  const float last = sm.cum[kChunk - 1];
  const float cum_row[2] = {sm.cum[row], sm.cum[row + 8]};
  const float step[2] = {sm.step[row], sm.step[row + 8]};
  float part[P / 8][4];
  clear(part);
  add_product_trans<N, P>(part, b_rows, Tile<N>(sm.dstate), lane);
  scale_rows(part, mma::exp2_approx(fminf(last - cum_row[0], 0.0F)), mma::exp2_approx(fminf(last - cum_row[1], 0.0F)));
  {
    unsigned x_rows[P / 16][4];
    load_rows<P>(x_rows, Tile<P>(sm.x), warp * kTileRows, lane);
    const float2 dots = row_dots<P>(part, x_rows);
    if (t == 0) {
      sm.sums.to_state[row] = dots.x;
      sm.sums.to_state[row + 8] = dots.y;
    }
  }
  const auto block = [&](int i, auto on_diagonal) {
    float s[2][4];
    unsigned a[4];
    score(s, i);
    decay_transposed<on_diagonal>(s, sm.cum, row, i * kTileRows, cum_row, t);
    pack_scores(a, s);
    add_product<P>(part, a, dy, i * kTileRows, lane);
  };
  block(warp, std::true_type{});
#pragma unroll 1
  for (int i = warp + 1; i < kRowTiles; ++i) block(i, std::false_type{});
  const bf16* own = sm.dy + row * Tile<P>::kStride + 2 * t;
#pragma unroll
  for (int n = 0; n < P / 8; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const unsigned pair = *reinterpret_cast<const unsigned*>(own + half * 8 * Tile<P>::kStride + 8 * n);
      const float low = part[n][2 * half] * step[half] + skip * mma::low_half(pair);
      const float high = part[n][2 * half + 1] * step[half] + skip * mma::high_half(pair);
      dx[n][2 * half] = kFirst ? low : dx[n][2 * half] + low;
      dx[n][2 * half + 1] = kFirst ? high : dx[n][2 * half + 1] + high;
    }
  }
}
template <int P, int N, bool kFirst>
__device__ void add_dx(float (&dx)[P / 8][4], BackwardShared<P, N>& sm, float skip, int warp, int lane) {
  const Tile<N> c(sm.c);
  unsigned b_rows[N / 16][4];
  load_rows<N>(b_rows, Tile<N>(sm.b), warp * kTileRows, lane);
  const auto score = [&](float(&s)[2][4], int i) { scores<N>(s, b_rows, c, i * kTileRows, lane); };
  add_dx<P, N, kFirst>(dx, sm, b_rows, score, skip, warp, lane);
}

// <dS, S> over the tiles, a part per warp.
template <int P, int N, class Shared>
__device__ void dot_states(Shared& sm, int warp, int lane) {
  float sum = 0.0F;
  for (int i = warp * 32 + lane; i < P * (N / 8); i += 128) {
    const int at = i / (N / 8) * Tile<N>::kStride + i % (N / 8) * 8;
    const uint4 s = *reinterpret_cast<const uint4*>(sm.state + at);
    const uint4 d = *reinterpret_cast<const uint4*>(sm.dstate + at);
    const unsigned* sw = &s.x;
    const unsigned* dw = &d.x;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      sum += mma::low_half(sw[w]) * mma::low_half(dw[w]) + mma::high_half(sw[w]) * mma::high_half(dw[w]);
    }
  }
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffU, sum, offset);
  if (lane == 0) sm.sums.state_dot[warp] = sum;
}

// Sum over the lanes from this one on (suffix) or before it (prefix, exclusive).
__device__ inline float lane_suffix(float x, int lane) {
  for (int offset = 1; offset < 32; offset *= 2) {
    const float other = __shfl_down_sync(0xffffffffU, x, offset);
    if (lane + offset < 32) x += other;
  }
  return x;
}
__device__ inline float lane_prefix(float x, int lane) {
  float sum = x;
  for (int offset = 1; offset < 32; offset *= 2) {
    const float other = __shfl_up_sync(0xffffffffU, sum, offset);
    if (lane >= offset) sum += other;
  }
  const float before = __shfl_up_sync(0xffffffffU, sum, 1);
  return lane == 0 ? 0.0F : before;
}
__device__ inline float warp_sum(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffU, x, offset);
  return x;
}

// Gradients of dt and of the weights, by one warp; a lane has two tokens.
template <class Shared>
__device__ void step_gradients(const BackwardArgs& args, const Shared& sm, const ChunkInfo& chunk, int64_t slot, int h,
                               int lane) {
  const Problem& p = args.problem;
  const StepSums& sums = sm.sums;
  const float a = -expf(args.a_log[h]);
  const float last = sm.cum[kChunk - 1];
  const float through = mma::exp2_approx(fminf(last, 0.0F)) *
                        (sums.state_dot[0] + sums.state_dot[1] + sums.state_dot[2] + sums.state_dot[3]);
  float own[2], direct[2], entering[2], skip = 0.0F;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int j = 2 * lane + i;
    const bool valid = j < chunk.count;
    float column = 0.0F;
    for (int w = j / kTileRows; w < kRowTiles; ++w) column += sums.column_sum[w][j];
    direct[i] = valid ? column + sums.diagonal[j] + sums.to_state[j] : 0.0F;
    own[i] = valid ? sums.row_sum[j] - column * sm.step[j] : 0.0F;
    entering[i] = valid ? sums.to_state[j] * sm.step[j] : 0.0F;
    skip += valid ? sums.product[j] : 0.0F;
  }
  const float pair = own[0] + own[1];
  const float after = lane_suffix(pair, lane);
  const float before = lane_prefix(entering[0] + entering[1], lane);
  const float exponent[2] = {after + before + through, after - own[0] + before + entering[0] + through};
  float weight_a = 0.0F;
  float bias = 0.0F;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int j = 2 * lane + i;
    if (j >= chunk.count) continue;
    const float step = sm.step[j];
    weight_a += step * exponent[i];
    // softplus' = sigmoid = 1 - exp(-softplus)
    const float raw = (a * exponent[i] + direct[i]) * -expm1f(-step);
    bias += raw;
    if (args.ddt.data != nullptr) {
      add_bf16(args.ddt.data + (chunk.first + j) * args.ddt.stride + h, raw, args.ddt.accumulate);
    }
  }
  weight_a = warp_sum(weight_a) * a;
  bias = warp_sum(bias);
  skip = warp_sum(skip);
  if (lane == 0) {
    float* to = args.weight_sums + static_cast<int64_t>(h) * p.slots + slot;
    const int64_t kind = static_cast<int64_t>(p.heads) * p.slots;
    to[0] = weight_a;
    to[kind] = skip;
    to[2 * kind] = bias;
  }
}

// Rows of a gradient to where they belong: the tensor itself, or this block's part of a sum over heads.
template <int W>
__device__ void write_gradient(const float (&sum)[W / 8][4], const Output& out, const ChunkInfo& chunk, int h,
                               int64_t part, int64_t parts, int warp, int lane) {
  const int t = lane % 4;
  const int row = warp * kTileRows + lane / 4;
  if (out.partial != nullptr) {
    store_partial<W>(sum, out, chunk.first, row, chunk.count, part, parts, t);
  } else if (out.data != nullptr) {
    store_rows<W>(sum, out, chunk.first, row, chunk.count, static_cast<int64_t>(h / out.heads_per_group) * out.width,
                  t);
  }
}

}  // namespace matvlm::ssd_chunk
