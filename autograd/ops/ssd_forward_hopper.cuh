// Forward pass of the chunked SSD for sm_90a, as a pipeline of warps that meet only at mbarriers: one thread brings the
// chunks by bulk tensor copies, P / 16 warps carry the state from chunk to chunk, and groups of four warps compute the
// outputs, group g those of every kGroups-th chunk, so that a chunk's outputs may take kGroups times as long as its
// state. Same arithmetic as forward_kernel. Rows past the end of a sequence are those of the next one: their weights
// are zero and their outputs are not stored.
#pragma once

#include "autograd/ops/hopper.cuh"
#include "autograd/ops/ssd_forward.cuh"

namespace matvlm::ssd_chunk {

// Boxes are 8 columns wider than a row, outside the tensor: that is the padding of the tiles.
struct ForwardMaps {
  CUtensorMap x, b, c;
};

template <int P, int N>
struct PipelineShared {
  static constexpr int kGroups = P + N <= 192 ? 2 : 1;  // more do not fit the registers
  static constexpr int kStages = kGroups + 1;
  static constexpr int kStates = kGroups + 1;
  static constexpr int kStateWarps = P / 16;
  static constexpr int kThreads = 128 * kGroups + 2 * P + 32;
  static constexpr unsigned kStageBytes =
      2 * (Tile<P>::elements(kChunk) + 2 * Tile<N>::elements(kChunk)) + 2 * kChunk * sizeof(float);
  alignas(128) bf16 x[kStages][Tile<P>::elements(kChunk)];
  alignas(128) bf16 b[kStages][Tile<N>::elements(kChunk)];
  alignas(128) bf16 c[kStages][Tile<N>::elements(kChunk)];
  alignas(128) float cum[kStages][kChunk];
  float step[kStages][kChunk];
  bf16 state[kStates][Tile<N>::elements(P)];
  uint64_t full[kStages], empty[kStages];              // a chunk's tiles
  uint64_t state_full[kStates], state_empty[kStates];  // the rounded state before a chunk
};

template <int P, int N>
__global__ void __launch_bounds__(PipelineShared<P, N>::kThreads, 1)
    pipeline_kernel(const __grid_constant__ ForwardArgs args, const __grid_constant__ ForwardMaps maps) {
#ifdef MATVLM_SM90A
  using Shared = PipelineShared<P, N>;
  constexpr int kGroups = Shared::kGroups;
  extern __shared__ __align__(128) unsigned char pipeline_memory[];
  auto& sm = *reinterpret_cast<Shared*>(pipeline_memory);
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
  const int count = static_cast<int>(last_chunk - first_chunk);
  const auto tokens = [&](int i) {
    return static_cast<int>(min(length - (first_chunk + i) * kChunk, static_cast<int64_t>(kChunk)));
  };
  const auto address = [](const uint64_t& barrier) { return mma::shared_address(&barrier); };

  if (thread == 0) {
    for (int i = 0; i < Shared::kStages; ++i) {
      hopper::barrier_init(address(sm.full[i]), 1);
      hopper::barrier_init(address(sm.empty[i]), kRowTiles + Shared::kStateWarps);
    }
    for (int i = 0; i < Shared::kStates; ++i) {
      hopper::barrier_init(address(sm.state_full[i]), Shared::kStateWarps);
      hopper::barrier_init(address(sm.state_empty[i]), kRowTiles);
    }
    hopper::barrier_init_fence();
  }
  __syncthreads();

  if (warp == Shared::kThreads / 32 - 1) {
    if (lane != 0) return;
    hopper::Ring<Shared::kStages> ring;
    for (int i = 0; i < count; ++i) {
      const auto row = static_cast<int>(begin + (first_chunk + i) * kChunk);
      const unsigned full = address(sm.full[ring.stage]);
      hopper::barrier_wait(address(sm.empty[ring.stage]), ring.parity ^ 1U);
      hopper::barrier_expect(full, Shared::kStageBytes);
      hopper::copy_box(mma::shared_address(sm.x[ring.stage]), maps.x, full, 0, h / p.x.heads_per_group, row);
      hopper::copy_box(mma::shared_address(sm.b[ring.stage]), maps.b, full, 0, h / p.b.heads_per_group, row);
      const int64_t from = (h * p.slots + first_slot(begin, b) + first_chunk + i) * kChunk;
      hopper::copy_bulk(mma::shared_address(sm.cum[ring.stage]), p.cum + from, kChunk * sizeof(float), full);
      hopper::copy_bulk(mma::shared_address(sm.step[ring.stage]), p.step + from, kChunk * sizeof(float), full);
      hopper::copy_box(mma::shared_address(sm.c[ring.stage]), maps.c, full, 0, h / p.c.heads_per_group, row);
      ring.next();
    }
    return;
  }
  if (warp < kRowTiles * kGroups) {
    const int group = warp / kRowTiles;
    const float skip = args.d[h];
    for (int i = group; i < count; i += kGroups) {
      const int stage = i % Shared::kStages;
      const int state = i % Shared::kStates;
      hopper::barrier_wait(address(sm.full[stage]), static_cast<unsigned>(i / Shared::kStages) & 1U);
      hopper::barrier_wait(address(sm.state_full[state]), static_cast<unsigned>(i / Shared::kStates) & 1U);
      float y[P / 8][4];
      chunk_outputs<P, N>(
          y, args, sm, stage, sm.state[state], begin + (first_chunk + i) * kChunk, tokens(i), h, skip,
          // the last rows have the most work: every other group takes them on other schedulers
          group % 2 == 0 ? warp % kRowTiles : kRowTiles - 1 - warp % kRowTiles, lane, [&](bool state_only) {
            __syncwarp();
            if (lane == 0) {
              hopper::barrier_arrive(state_only ? address(sm.state_empty[state]) : address(sm.empty[stage]));
            }
          });
    }
    return;
  }
  const int t = lane % 4;
  const int own_row = (warp - kRowTiles * kGroups) * kTileRows + lane / 4;
  const int64_t widths = static_cast<int64_t>(p.head_dim) * p.state;
  const int64_t source = args.rows != nullptr ? args.rows[b] : b;
  float state[N / 8][4];
  if (blockIdx.y > 0) {
    load_parts<N>(state, args.parts, args.part_decays, first_part(begin, b, args.part_chunks),
                  first_chunk / args.part_chunks, p.heads, h, P, own_row, t);
  } else {
    load_state<N>(state, args.initial != nullptr ? args.initial + (source * p.heads + h) * widths : nullptr, own_row,
                  p.head_dim, p.state, t);
  }
  hopper::Ring<Shared::kStates> ring;
  const auto publish = [&] {
    hopper::barrier_wait(address(sm.state_empty[ring.stage]), ring.parity ^ 1U);
    stage_state<N>(state, sm.state[ring.stage], own_row, t);
    __syncwarp();
    if (lane == 0) hopper::barrier_arrive(address(sm.state_full[ring.stage]));
    ring.next();
  };
  publish();
  for (int i = 0; i < count; ++i) {
    const int stage = i % Shared::kStages;
    hopper::barrier_wait(address(sm.full[stage]), static_cast<unsigned>(i / Shared::kStages) & 1U);
    update_state<P, N, false, true>(state, sm.x[stage], sm.b[stage], sm.cum[stage], sm.step[stage], tokens(i),
                                    (warp - kRowTiles * kGroups) * kTileRows, lane);
    __syncwarp();
    if (lane == 0) hopper::barrier_arrive(address(sm.empty[stage]));
    if (i + 1 < count) publish();
  }
  if (args.final_state != nullptr && last_chunk == chunks) {
    store_state<N>(state, args.final_state + (source * p.heads + h) * widths, own_row, p.head_dim, p.state, t);
  }
#endif
}

}  // namespace matvlm::ssd_chunk
