// State pass of the chunked SSD: per sequence and head a block, or two that share its columns, goes through the chunks
// and keeps the state in registers. Forward in time it gives the state before each chunk, backward in time the gradient
// of the state after each chunk: what the backward pass starts from. The forward pass of few long sequences is split
// into segments; for it the blocks take a part of a sequence each, and what starts a segment adds up the parts before
// it (load_parts).
#pragma once

#include "autograd/ops/hopper.cuh"
#include "autograd/ops/ssd_chunk.cuh"

namespace matvlm::ssd_chunk {

struct StatesPass {
  Rows u, v;                       // x and B, or dy and C
  const float* initial = nullptr;  // [S, H, P, N] of the first chunk in this direction, null = 0
  const int64_t* rows = nullptr;   // [B] of `initial`; null = b
  float* last = nullptr;           // [B, H, P, N] after the last chunk; null = not wanted
  bf16* states = nullptr;          // [slots, H, padded P, padded N] before each chunk, or null
  float* parts = nullptr;          // [part slots, H, padded P, padded N]: what each part adds to the state, or null
  float* part_decays = nullptr;    // [part slots, H]: log2 of the decay over each part
};

struct StatesArgs {
  Problem problem;
  StatesPass pass[2];         // [0] forward in time, [1] backward
  int64_t part_chunks = 0;    // chunks of a part, where parts are wanted
  int64_t segment_parts = 0;  // parts of a segment
};

// The first part of sequence b, counted like the slots of chunks.
__host__ __device__ inline int64_t first_part(int64_t begin, int64_t sequence, int64_t part_chunks) {
  return begin / (part_chunks * kChunk) + sequence;
}

// The state after the first `count` parts of a sequence, from slot `first` on.
template <int N>
__device__ void load_parts(float (&state)[N / 8][4], const float* parts, const float* decays, int64_t first,
                           int64_t count, int heads, int h, int p, int row, int t) {
  clear(state);
  for (int64_t i = first; i < first + count; ++i) {
    const int64_t at = i * heads + h;
    const float decay = mma::exp2_approx(fminf(decays[at], 0.0F));
    float own[N / 8][4];
    load_state<N>(own, parts + at * p * N, row, p, N, t);
#pragma unroll
    for (int n = 0; n < N / 8; ++n) {
#pragma unroll
      for (int k = 0; k < 4; ++k) state[n][k] = state[n][k] * decay + own[n][k];
    }
  }
}

// Columns of a state that one block keeps: half of a wide one, so that more blocks fit a multiprocessor (and the last
// wave of them is nearly full). Both read all of u; the second finds it in the L2 cache.
template <int N>
constexpr int kStatesColumns = N > 80 && N % 32 == 0 ? N / 2 : N;
template <int N>
constexpr int kStatesSplits = N / kStatesColumns<N>;

// Of u and v per direction, as BackwardMaps; v with boxes for kStatesColumns.
struct StatesMaps {
  CUtensorMap u[2], v[2];
};

template <int P, int N>
struct StatesShared {
  static constexpr int kStages = 2;
  alignas(128) bf16 u[kStages][Tile<P>::elements(kChunk)];
  alignas(128) bf16 v[kStages][Tile<kStatesColumns<N>>::elements(kChunk)];
  alignas(128) float cum[kStages][kChunk];
  float step[kStages][kChunk];
  uint64_t full[kStages];  // where tiles come by bulk copies
};

template <int P, int N, bool kReverse, bool kBulk>
__device__ void run_states(const StatesArgs& args, const StatesMaps& maps, StatesShared<P, N>& sm) {
  constexpr int kThreads = 2 * P;
  constexpr int kColumns = kStatesColumns<N>;
  const StatesPass& pass = args.pass[kReverse ? 1 : 0];
  const Problem& p = args.problem;
  const int thread = static_cast<int>(threadIdx.x);
  const int h = static_cast<int>(blockIdx.x) / kStatesSplits<N>;
  const int first_column = static_cast<int>(blockIdx.x) % kStatesSplits<N> * kColumns;
  const int64_t b = blockIdx.y;
  const int t = thread % 4;
  const int row = thread / 32 * kTileRows + thread % 32 / 4;
  const int64_t begin = p.cu[b];
  const int64_t length = p.cu[b + 1] - begin;
  const int64_t chunks = (length + kChunk - 1) / kChunk;
  int64_t from = 0;
  int64_t to = chunks;
  if (pass.parts != nullptr) {  // nothing starts from what lies in the last segment
    const int64_t segment = args.segment_parts * args.part_chunks;
    from = static_cast<int64_t>(blockIdx.z) * args.part_chunks;
    to = min(from + args.part_chunks, (chunks - 1) / segment * segment);
    if (from >= to) return;
  }
  const auto chunk_of = [&](int64_t k) { return kReverse ? chunks - 1 - k : k; };
  const auto tokens = [&](int64_t k) {
    return static_cast<int>(min(length - chunk_of(k) * kChunk, static_cast<int64_t>(kChunk)));
  };
  const auto load = [&](int64_t k, int stage) {
    const int64_t first = begin + chunk_of(k) * kChunk;
    const int64_t slot = first_slot(begin, b) + chunk_of(k);
    if constexpr (kBulk) {
      if (thread != 0) return;
      const unsigned full = mma::shared_address(&sm.full[stage]);
      const auto row = static_cast<int>(first);
      const int64_t steps = (h * p.slots + slot) * kChunk;
      constexpr unsigned kBytes =
          2 * (Tile<P>::elements(kChunk) + Tile<kColumns>::elements(kChunk)) + 2 * kChunk * sizeof(float);
      hopper::barrier_expect(full, kBytes);
      hopper::copy_bulk(mma::shared_address(sm.cum[stage]), p.cum + steps, kChunk * sizeof(float), full);
      hopper::copy_bulk(mma::shared_address(sm.step[stage]), p.step + steps, kChunk * sizeof(float), full);
      hopper::copy_box(mma::shared_address(sm.u[stage]), maps.u[kReverse ? 1 : 0], full, 0, h / pass.u.heads_per_group,
                       row);
      hopper::copy_box(mma::shared_address(sm.v[stage]), maps.v[kReverse ? 1 : 0], full, first_column,
                       h / pass.v.heads_per_group, row);
    } else {
      load_tile<P, kThreads>(sm.u[stage], pass.u, first, tokens(k), h, thread);
      Rows own = pass.v;  // this block's columns of it
      own.data += static_cast<int64_t>(h / own.heads_per_group) * own.width + first_column;
      own.width -= first_column;
      load_tile<kColumns, kThreads>(sm.v[stage], own, first, tokens(k), 0, thread);
      load_steps<kThreads>(sm.cum[stage], sm.step[stage], p, slot, h, thread);
      mma::copy_async_commit();
    }
  };
  if constexpr (kBulk) {
    if (thread == 0) {
      for (int i = 0; i < StatesShared<P, N>::kStages; ++i) hopper::barrier_init(mma::shared_address(&sm.full[i]), 1);
      hopper::barrier_init_fence();
    }
    __syncthreads();
  }
  if (from < to) load(from, 0);

  float state[kColumns / 8][4];
  const int64_t widths = static_cast<int64_t>(p.head_dim) * p.state;
  const int64_t source = pass.rows != nullptr ? pass.rows[b] : b;
  const bool carried = pass.initial != nullptr && from == 0;
  load_state<kColumns>(state, carried ? pass.initial + (source * p.heads + h) * widths : nullptr, row, p.head_dim,
                       p.state, t, first_column);
  float decay = 0.0F;
  for (int64_t k = from; k < to; ++k) {
    const int stage = static_cast<int>((k - from) % 2);
    if constexpr (kBulk) {
      hopper::barrier_wait(mma::shared_address(&sm.full[stage]), static_cast<unsigned>((k - from) / 2) & 1U);
    } else {
      mma::copy_async_wait<0>();
    }
    __syncthreads();  // also: the other stage has been read
    if (k + 1 < to) load(k + 1, 1 - stage);
    if (pass.states != nullptr) {
      const int64_t slot = first_slot(begin, b) + chunk_of(k);
      store_state_bf16<kColumns, N>(state, pass.states + (slot * p.heads + h) * P * N + first_column, row, t);
    }
    update_state<P, kColumns, kReverse, kBulk>(state, sm.u[stage], sm.v[stage], sm.cum[stage], sm.step[stage],
                                               tokens(k), thread / 32 * kTileRows, thread % 32);
    decay += sm.cum[stage][kChunk - 1];
  }
  if (pass.parts != nullptr) {
    const int64_t at = (first_part(begin, b, args.part_chunks) + blockIdx.z) * p.heads + h;
    store_state<kColumns>(state, pass.parts + at * P * N, row, P, N, t, first_column);
    if (thread == 0 && first_column == 0) pass.part_decays[at] = decay;
  }
  if (pass.last != nullptr) {
    store_state<kColumns>(state, pass.last + (b * p.heads + h) * widths, row, p.head_dim, p.state, t, first_column);
  }
}

// Blocks a multiprocessor that registers have to allow: with 640 threads there are 96 for each. Without bulk copies a
// thread also needs addresses, and a multiprocessor of such devices has shared memory for no more than four blocks.
template <int P, int N, bool kBulk>
constexpr int kStatesBlocks = kStatesColumns<N> <= 64 ? (kBulk ? 640 : 512) / (2 * P)
                              : P <= 64               ? 3
                                                      : 1;

// Grid: (H * kStatesSplits, B, directions), or (H * kStatesSplits, B, parts).
template <int P, int N, bool kBulk>
__global__ void __launch_bounds__(2 * P, kStatesBlocks<P, N, kBulk>)
    states_kernel(const __grid_constant__ StatesArgs args, const __grid_constant__ StatesMaps maps) {
#ifndef MATVLM_SM90A
  if constexpr (!kBulk)
#endif
  {
    extern __shared__ __align__(128) unsigned char memory[];
    auto& sm = *reinterpret_cast<StatesShared<P, N>*>(memory);
    if (blockIdx.z == 1 && args.pass[0].parts == nullptr) {
      run_states<P, N, true, kBulk>(args, maps, sm);
    } else {
      run_states<P, N, false, kBulk>(args, maps, sm);
    }
  }
}

}  // namespace matvlm::ssd_chunk
