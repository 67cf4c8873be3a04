// State pass of the chunked SSD: per sequence and head one block goes through the chunks and keeps the state in
// registers. Forward in time it gives the state before each chunk (the backward pass wants them all, the split forward
// pass those before each segment), backward in time the gradient of the state after each chunk.
#pragma once

#include "autograd/ops/ssd_chunk.cuh"

namespace matvlm::ssd_chunk {

struct StatesPass {
  Rows u, v;                       // x and B, or dy and C
  const float* initial = nullptr;  // [S, H, P, N] of the first chunk in this direction, null = 0
  const int64_t* rows = nullptr;   // [B] of `initial`; null = b
  float* last = nullptr;           // [B, H, P, N] after the last chunk; null = not wanted
  bf16* states = nullptr;          // [slots, H, padded P, padded N] before each chunk, or null
  float* boundaries = nullptr;     // [segment slots, H, padded P, padded N] before each segment, or null
};

struct StatesArgs {
  Problem problem;
  StatesPass pass[2];          // [0] forward in time, [1] backward
  int64_t segment_chunks = 0;  // chunks of a segment, where boundaries are wanted
  bool reverse_only = false;   // grid.z = 1 is then the backward pass
};

// Segment i of sequence b, as ChunkInfo's slots.
__host__ __device__ inline int64_t segment_slot(int64_t begin, int64_t sequence, int64_t segment_chunks) {
  return begin / (segment_chunks * kChunk) + sequence;
}

template <int P, int N>
struct StatesShared {
  static constexpr int kStages = 2;
  bf16 u[kStages][Tile<P>::elements(kChunk)];
  bf16 v[kStages][Tile<N>::elements(kChunk)];
  bf16 scaled[Tile<P>::elements(kChunk)];
  float cum[kStages][kChunk];
  float step[kStages][kChunk];
};

template <int P, int N, bool kReverse>
__device__ void run_states(const StatesArgs& args, const StatesPass& pass, StatesShared<P, N>& sm) {
  constexpr int kThreads = 2 * P;
  const Problem& p = args.problem;
  const int thread = static_cast<int>(threadIdx.x);
  const int h = static_cast<int>(blockIdx.x);
  const int64_t b = blockIdx.y;
  const int t = thread % 4;
  const int row = thread / 32 * kTileRows + thread % 32 / 4;
  const int64_t begin = p.cu[b];
  const int64_t length = p.cu[b + 1] - begin;
  const int64_t chunks = (length + kChunk - 1) / kChunk;
  // With boundaries only: what lies behind the last one is not needed.
  const int64_t wanted = pass.boundaries != nullptr ? (chunks - 1) / args.segment_chunks * args.segment_chunks : chunks;

  const auto load = [&](int64_t k, int stage) {
    const int64_t chunk = kReverse ? chunks - 1 - k : k;
    const int64_t first = begin + chunk * kChunk;
    const int count = static_cast<int>(min(length - chunk * kChunk, static_cast<int64_t>(kChunk)));
    load_tile<P, kThreads>(sm.u[stage], pass.u, first, count, h, thread);
    load_tile<N, kThreads>(sm.v[stage], pass.v, first, count, h, thread);
    load_steps<kThreads>(sm.cum[stage], sm.step[stage], p, first_slot(begin, b) + chunk, h, thread);
    mma::copy_async_commit();
  };
  if (wanted > 0) load(0, 0);

  float state[N / 8][4];
  const int64_t widths = static_cast<int64_t>(p.head_dim) * p.state;
  const int64_t source = pass.rows != nullptr ? pass.rows[b] : b;
  load_state<N>(state, pass.initial != nullptr ? pass.initial + (source * p.heads + h) * widths : nullptr, row,
                p.head_dim, p.state, t);
  const auto keep_boundary = [&](int64_t segment) {
    const int64_t slot = segment_slot(begin, b, args.segment_chunks) + segment;
    store_state<N>(state, pass.boundaries + (slot * p.heads + h) * P * N, row, P, N, t);
  };
  for (int64_t k = 0; k < wanted; ++k) {
    const int stage = static_cast<int>(k % 2);
    mma::copy_async_wait<0>();
    __syncthreads();
    if (k + 1 < wanted) load(k + 1, 1 - stage);
    if (pass.states != nullptr) {
      const int64_t slot = first_slot(begin, b) + (kReverse ? chunks - 1 - k : k);
      store_state_bf16<N>(state, pass.states + (slot * p.heads + h) * P * N, row, t);
    }
    if (pass.boundaries != nullptr && k % args.segment_chunks == 0) keep_boundary(k / args.segment_chunks);
    update_state<P, N, kReverse>(
        state, sm.u[stage], sm.v[stage], sm.scaled, sm.cum[stage], sm.step[stage],
        static_cast<int>(min(length - (kReverse ? chunks - 1 - k : k) * kChunk, static_cast<int64_t>(kChunk))), thread);
  }
  if (pass.boundaries != nullptr) keep_boundary(wanted / args.segment_chunks);
  if (pass.last != nullptr) {
    store_state<N>(state, pass.last + (b * p.heads + h) * widths, row, p.head_dim, p.state, t);
  }
}

// Grid: (H, B, directions).
template <int P, int N>
__global__ void __launch_bounds__(2 * P) states_kernel(const __grid_constant__ StatesArgs args) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& sm = *reinterpret_cast<StatesShared<P, N>*>(memory);
  if (blockIdx.z == 1 || args.reverse_only) {
    run_states<P, N, true>(args, args.pass[1], sm);
  } else {
    run_states<P, N, false>(args, args.pass[0], sm);
  }
}

}  // namespace matvlm::ssd_chunk
