// Forward pass of the chunked SSD in one sweep over the data: a block owns a head of a sequence (or of a segment of it)
// and goes through its chunks. Four warps compute the outputs of a chunk from the state before it, P / 16 others
// meanwhile the state after it, which lives in their registers. All warps go through one loop, whose barriers lie
// outside of what only some of them do: a block's barrier has to be the same instruction for all of its threads.
#pragma once

#include "autograd/ops/ssd_states.cuh"

namespace matvlm::ssd_chunk {

struct ForwardArgs {
  Problem problem;
  Output y;
  const float* d = nullptr;        // [H]
  const float* initial = nullptr;  // [S, H, P, N]; null = 0
  const int64_t* rows = nullptr;   // [B] of initial and final_state; null = b
  float* final_state = nullptr;    // [S, H, P, N] or null
  int64_t segment_chunks = 0;      // of the part of a sequence that a block does
  const float* parts = nullptr;    // of StatesPass, when sequences are split
  const float* part_decays = nullptr;
  int64_t part_chunks = 0;
};

// kStages: chunks under way; with one, nothing hides its loads. kStates: copies of the rounded state; one costs a
// second barrier per chunk.
template <int P, int N, int kStages, int kStates>
struct ForwardShared {
  bf16 x[kStages][Tile<P>::elements(kChunk)];
  bf16 b[kStages][Tile<N>::elements(kChunk)];
  bf16 c[kStages][Tile<N>::elements(kChunk)];
  bf16 state[kStates][Tile<N>::elements(P)];
  float cum[kStages][kChunk];
  float step[kStages][kChunk];
};

// Outputs of the 16 tokens from 16 * warp on, computed in y. release(true) is called when the state has been read,
// release(false) when the chunk has been.
template <int P, int N, class Shared, class Release>
__device__ void chunk_outputs(float (&y)[P / 8][4], const ForwardArgs& args, const Shared& sm, int stage,
                              const bf16* state_before, int64_t first, int count, int h, float skip, int warp, int lane,
                              Release&& release) {
  const int t = lane % 4;
  const int row = warp * kTileRows + lane / 4;
  if (warp * kTileRows >= count) {
    release(true);
    return release(false);
  }
  const Tile<P> x(sm.x[stage]);
  const Tile<N> b(sm.b[stage]);
  const float* cum = sm.cum[stage];
  const float* step = sm.step[stage];
  const float cum_row[2] = {cum[row], cum[row + 8]};

  unsigned c[N / 16][4];
  load_rows<N>(c, Tile<N>(sm.c[stage]), warp * kTileRows, lane);
  clear(y);
  add_product_trans<N, P>(y, c, Tile<N>(state_before), lane);
  release(true);
  scale_rows(y, mma::exp2_approx(fminf(cum_row[0], 0.0F)), mma::exp2_approx(fminf(cum_row[1], 0.0F)));
  for (int j = 0; j <= warp; ++j) {
    float s[2][4];
    scores<N>(s, c, b, j * kTileRows, lane);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int column = j * kTileRows + 8 * n + 2 * t;
      const float2 cum_column = *reinterpret_cast<const float2*>(cum + column);
      const float2 step_column = *reinterpret_cast<const float2*>(step + column);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float decay = mma::exp2_approx(fminf(cum_row[i / 2] - (i % 2 == 0 ? cum_column.x : cum_column.y), 0.0F));
        const float value = s[n][i] * decay * (i % 2 == 0 ? step_column.x : step_column.y);
        s[n][i] = row + 8 * (i / 2) >= column + i % 2 ? value : 0.0F;
      }
    }
    const unsigned a[4] = {mma::pack(s[0][0], s[0][1]), mma::pack(s[0][2], s[0][3]), mma::pack(s[1][0], s[1][1]),
                           mma::pack(s[1][2], s[1][3])};
    add_product<P>(y, a, x, j * kTileRows, lane);
  }
  const bf16* own = sm.x[stage] + row * Tile<P>::kStride + 2 * t;
#pragma unroll
  for (int n = 0; n < P / 8; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const unsigned pair = *reinterpret_cast<const unsigned*>(own + half * 8 * Tile<P>::kStride + 8 * n);
      y[n][2 * half] += skip * mma::low_half(pair);
      y[n][2 * half + 1] += skip * mma::high_half(pair);
    }
  }
  release(false);
  store_rows<P>(y, args.y, first, row, count, static_cast<int64_t>(h) * args.y.width, t);
}

// Grid: (H, segments, B); kRowTiles + P / 16 warps.
template <int P, int N, int kStages, int kStates>
__global__ void __launch_bounds__(128 + 2 * P) forward_kernel(const __grid_constant__ ForwardArgs args) {
  constexpr int kThreads = 128 + 2 * P;
  extern __shared__ __align__(128) unsigned char memory[];
  auto& sm = *reinterpret_cast<ForwardShared<P, N, kStages, kStates>*>(memory);
  const Problem& p = args.problem;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;
  const int lane = thread % 32;
  const int h = static_cast<int>(blockIdx.x);
  const int64_t b = blockIdx.z;
  const int64_t begin = p.cu[b];
  const int64_t length = p.cu[b + 1] - begin;
  const int64_t chunks = (length + kChunk - 1) / kChunk;
  const int64_t first_chunk = static_cast<int64_t>(blockIdx.y) * args.segment_chunks;
  if (first_chunk >= chunks && blockIdx.y > 0) return;
  const int64_t last_chunk = min(first_chunk + args.segment_chunks, chunks);

  const auto load = [&](int64_t k) {
    if (k < last_chunk) {
      const int stage = static_cast<int>((k - first_chunk) % kStages);
      const int64_t first = begin + k * kChunk;
      const int count = static_cast<int>(min(length - k * kChunk, static_cast<int64_t>(kChunk)));
      load_tile<P, kThreads>(sm.x[stage], p.x, first, count, h, thread);
      load_tile<N, kThreads>(sm.b[stage], p.b, first, count, h, thread);
      load_tile<N, kThreads>(sm.c[stage], p.c, first, count, h, thread);
      load_steps<kThreads>(sm.cum[stage], sm.step[stage], p, first_slot(begin, b) + k, h, thread);
    }
    mma::copy_async_commit();
  };
  constexpr int kAhead = kStages > 1 ? kStages - 1 : 1;
#pragma unroll
  for (int i = 0; i < kAhead; ++i) load(first_chunk + i);

  const bool outputs = warp < kRowTiles;  // or states
  const float skip = args.d[h];
  const int t = lane % 4;
  const int column = (warp - kRowTiles) * kTileRows;  // of x: the rows of the state that this warp has
  const int own_row = column + lane / 4;
  const int64_t widths = static_cast<int64_t>(p.head_dim) * p.state;
  const int64_t source = args.rows != nullptr ? args.rows[b] : b;
  float sums[(P > N ? P : N) / 8][4];  // the state, or a chunk's outputs
  clear(sums);
  auto& state = columns_of<N>(sums);
  if (!outputs) {
    if (blockIdx.y > 0) {
      load_parts<N>(state, args.parts, args.part_decays, first_part(begin, b, args.part_chunks),
                    first_chunk / args.part_chunks, p.heads, h, P, own_row, t);
    } else {
      load_state<N>(state, args.initial != nullptr ? args.initial + (source * p.heads + h) * widths : nullptr, own_row,
                    p.head_dim, p.state, t);
    }
    stage_state<N>(state, sm.state[0], own_row, t);
  }
  for (int64_t k = first_chunk; k < last_chunk; ++k) {
    const int64_t i = k - first_chunk;
    const auto stage = static_cast<int>(i % kStages);
    const int64_t first = begin + k * kChunk;
    const int count = static_cast<int>(min(length - k * kChunk, static_cast<int64_t>(kChunk)));
    mma::copy_async_wait<kAhead - 1>();
    __syncthreads();  // chunk k and the state before it are there, chunk k - 1 has been read
    if constexpr (kStages > 1) load(k + kAhead);
    if (outputs) {
      chunk_outputs<P, N>(columns_of<P>(sums), args, sm, stage, sm.state[i % kStates], first, count, h, skip, warp,
                          lane, [](bool) {});
    } else {
      update_state<P, N, false, false>(state, sm.x[stage], sm.b[stage], sm.cum[stage], sm.step[stage], count, column,
                                       lane);
    }
    if constexpr (kStates == 1) __syncthreads();  // the state has been read
    if constexpr (kStages == 1) load(k + 1);
    if (!outputs) stage_state<N>(state, sm.state[(i + 1) % kStates], own_row, t);
  }
  if (!outputs && args.final_state != nullptr && last_chunk == chunks) {
    store_state<N>(state, args.final_state + (source * p.heads + h) * widths, own_row, p.head_dim, p.state, t);
  }
}

// The forms of the kernel in the order in which they are tried: the first that fits a block's shared memory is taken.
template <int P, int N>
struct ForwardForms {
  static constexpr int64_t kHopper = 200 * 1024, kConsumer = 99 * 1024;
  static constexpr int kStages = sizeof(ForwardShared<P, N, 3, 2>) <= kHopper ? 3 : 2;
  static constexpr int64_t kLargeBytes = sizeof(ForwardShared<P, N, kStages, 2>);
  static constexpr int64_t kMediumBytes = sizeof(ForwardShared<P, N, 2, 1>);
  static constexpr bool kHasSmall = kMediumBytes > kConsumer;
  static constexpr int64_t kSmallestBytes = kHasSmall ? sizeof(ForwardShared<P, N, 1, 1>) : kMediumBytes;
};

}  // namespace matvlm::ssd_chunk
