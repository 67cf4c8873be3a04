// The kernels of the chunked SSD's backward pass: operands into shared memory, by bulk copies or 16 bytes a thread, and
// who computes which gradient; the arithmetic is in ssd_backward.cuh.
#pragma once

#include "autograd/ops/ssd_backward.cuh"

namespace matvlm::ssd_chunk {

// The loads of one head's chunk into a stage of shared memory, and what makes it ready to read, by kThreads threads.
template <int P, int N, bool kBulk, int kThreads>
struct StageLoader {
  const BackwardArgs& args;
  const BackwardMaps& maps;
  ChunkInfo chunk;
  int64_t slot;
  int thread;

  // Before the first load; followed by __syncthreads().
  __device__ void init(BackwardShared<P, N>& sm) const {
    if (kBulk && thread == 0) {
      hopper::barrier_init(mma::shared_address(&sm.full), 1);
      hopper::barrier_init_fence();
    }
  }

  // Bulk copies: called by thread 0 alone.
  __device__ void start(BackwardShared<P, N>& sm, int h) const {
    const Problem& p = args.problem;
    if constexpr (kBulk) {
      const unsigned full = mma::shared_address(&sm.full);
      const auto row = static_cast<int>(chunk.first);
      const auto state_row = static_cast<int>((slot * p.heads + h) * P);
      constexpr unsigned kBytes =
          2 * (2 * Tile<P>::elements(kChunk) + 2 * Tile<N>::elements(kChunk) + 2 * Tile<N>::elements(P)) +
          2 * kChunk * sizeof(float);
      hopper::barrier_expect(full, kBytes);
      const int64_t from = (h * p.slots + slot) * kChunk;
      hopper::copy_bulk(mma::shared_address(sm.cum), p.cum + from, kChunk * sizeof(float), full);
      hopper::copy_bulk(mma::shared_address(sm.step), p.step + from, kChunk * sizeof(float), full);
      hopper::copy_box(mma::shared_address(sm.c), maps.c, full, 0, h / p.c.heads_per_group, row);
      hopper::copy_box(mma::shared_address(sm.dy), maps.dy, full, 0, h, row);
      hopper::copy_box(mma::shared_address(sm.x), maps.x, full, 0, h / p.x.heads_per_group, row);
      hopper::copy_box(mma::shared_address(sm.b), maps.b, full, 0, h / p.b.heads_per_group, row);
      hopper::copy_box(mma::shared_address(sm.state), maps.states, full, 0, 0, state_row);
      hopper::copy_box(mma::shared_address(sm.dstate), maps.dstates, full, 0, 0, state_row);
    } else {
      load_tile<P, kThreads>(sm.x, p.x, chunk.first, chunk.count, h, thread);
      load_tile<P, kThreads>(sm.dy, p.dy, chunk.first, chunk.count, h, thread);
      load_tile<N, kThreads>(sm.b, p.b, chunk.first, chunk.count, h, thread);
      load_tile<N, kThreads>(sm.c, p.c, chunk.first, chunk.count, h, thread);
      const int64_t at = (slot * p.heads + h) * P * N;
      load_state_tile<P, N, kThreads>(sm.state, args.states + at, thread);
      load_state_tile<P, N, kThreads>(sm.dstate, args.dstates + at, thread);
      load_steps<kThreads>(sm.cum, sm.step, p, slot, h, thread);
      mma::copy_async_commit();
    }
  }

  __device__ void finish(BackwardShared<P, N>& sm, unsigned parity) const {
    if constexpr (kBulk) {
      hopper::barrier_wait(mma::shared_address(&sm.full), parity);
      if (chunk.count < kChunk) clear_tail(sm);
    } else {
      mma::copy_async_wait<0>();
      __syncthreads();
    }
  }

  // Zeros where bulk copies brought rows of the next sequence.
  __device__ void clear_tail(BackwardShared<P, N>& sm) const {
    bf16* const tiles[4] = {sm.x, sm.dy, sm.b, sm.c};
#pragma unroll 1
    for (int k = 0; k < 4; ++k) {
      const int stride = k < 2 ? Tile<P>::kStride : Tile<N>::kStride;
      for (int i = chunk.count * stride / 2 + thread; i < kChunk * stride / 2; i += kThreads) {
        reinterpret_cast<unsigned*>(tiles[k])[i] = 0U;
      }
    }
    hopper::async_proxy_fence();  // later copies come after these
    __syncthreads();
  }
};

// A chunk without tokens adds nothing.
__device__ inline void clear_weight_sums(const BackwardArgs& args, int64_t slot, int first_head) {
  const Problem& p = args.problem;
  for (int i = static_cast<int>(threadIdx.x); i < 3 * args.heads_per_block; i += static_cast<int>(blockDim.x)) {
    const int64_t h = first_head + i % args.heads_per_block;
    args.weight_sums[(i / args.heads_per_block * static_cast<int64_t>(p.heads) + h) * p.slots + slot] = 0.0F;
  }
}

// One head of a chunk: four warps, 16 tokens each.
template <int P, int N, bool kBulk>
__device__ void backward_chunk(const BackwardArgs& args, const BackwardMaps& maps, BackwardShared<P, N>& sm) {
  const Problem& p = args.problem;
  const int64_t slot = blockIdx.x / p.heads;
  const int h = static_cast<int>(blockIdx.x % p.heads);
  const ChunkInfo chunk = p.chunks[slot];
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;
  const int lane = thread % 32;
  if (chunk.count == 0) return clear_weight_sums(args, slot, h);
  const StageLoader<P, N, kBulk, 128> loader{args, maps, chunk, slot, thread};
  loader.init(sm);
  if (kBulk) __syncthreads();
  if (!kBulk || thread == 0) loader.start(sm, h);
  loader.finish(sm, 0);
  {
    float dc[N / 8][4];
    clear(dc);
    add_dc<P, N, true>(dc, sm, warp, lane);
    write_gradient<N>(dc, args.dc, chunk, h, h, p.heads, warp, lane);
  }
  {
    float db[N / 8][4];
    clear(db);
    add_db<P, N, true>(db, sm, warp, lane);
    write_gradient<N>(db, args.db, chunk, h, h, p.heads, warp, lane);
  }
  {
    float dx[P / 8][4];
    add_dx<P, N, true>(dx, sm, args.d[h], warp, lane);
    write_gradient<P>(dx, args.dx, chunk, h, h, p.heads, warp, lane);
  }
  dot_states<P, N>(sm, warp, lane);
  __syncthreads();
  if (warp == 0) step_gradients(args, sm, chunk, slot, h, lane);
}

// Threads and stages of the kernel for several heads.
constexpr int kHeadThreads = 3 * 128;
template <int P, int N, bool kBulk>
constexpr int kHeadStages = kBulk && 2 * sizeof(BackwardShared<P, N>) <= 220 * 1024 ? 2 : 1;

// What four warps of the kernels for several heads compute.
enum class Role { dc, db, dx };

// heads_per_block heads of one group (of those operands that have groups), one after the other, while the operands of
// the next ones arrive; gradients of what they share add up in registers. The roles share one loop: its barriers have
// to be the same instruction for all threads.
template <int P, int N, bool kBulk>
__device__ void backward_heads(const BackwardArgs& args, const StageLoader<P, N, kBulk, kHeadThreads>& loader,
                               BackwardShared<P, N>* stages, int first_head, int64_t part, int64_t parts) {
  constexpr int kStages = kHeadStages<P, N, kBulk>;
  const int heads = args.heads_per_block;
  const auto role = static_cast<Role>(loader.thread / 128);
  const int warp = loader.thread / 32 % kRowTiles;
  const int lane = loader.thread % 32;
  const bool apart = (role == Role::dc ? args.dc : role == Role::db ? args.db : args.dx).heads_per_group == 1;
  float sum[(P > N ? P : N) / 8][4];
  clear(sum);
  for (int i = 0; i < heads; ++i) {
    const int h = first_head + i;
    BackwardShared<P, N>& sm = stages[i % kStages];
    loader.finish(sm, static_cast<unsigned>(i / kStages) & 1U);
    const bool complete = apart || i + 1 == heads;
    if (role == Role::dc) {
      auto& dc = columns_of<N>(sum);
      add_dc<P, N, false>(dc, sm, warp, lane);
      if (complete) write_gradient<N>(dc, args.dc, loader.chunk, h, part, parts, warp, lane);
    } else if (role == Role::db) {
      auto& db = columns_of<N>(sum);
      add_db<P, N, false>(db, sm, warp, lane);
      dot_states<P, N>(sm, warp, lane);
      if (complete) write_gradient<N>(db, args.db, loader.chunk, h, part, parts, warp, lane);
    } else {
      auto& dx = columns_of<P>(sum);
      add_dx<P, N, false>(dx, sm, args.d[h], warp, lane);
      if (complete) write_gradient<P>(dx, args.dx, loader.chunk, h, part, parts, warp, lane);
    }
    if (complete) clear(sum);
    __syncthreads();  // the tiles have been read, the sums are complete
    if (loader.thread < 32) {
      step_gradients(args, sm, loader.chunk, loader.slot, h, lane);
      __syncwarp();
      if (kBulk && lane == 0 && i + kStages < heads) loader.start(sm, h + kStages);
    }
    if (!kBulk && i + 1 < heads) {
      __syncthreads();
      loader.start(sm, h + 1);
    }
  }
}

// Grid: slots * H.
template <int P, int N, bool kBulk>
__global__ void __launch_bounds__(128, P* N <= 80 * 80 ? 3 : 1)
    backward_kernel(const __grid_constant__ BackwardArgs args, const __grid_constant__ BackwardMaps maps) {
#ifndef MATVLM_SM90A
  if constexpr (!kBulk)
#endif
  {
    extern __shared__ __align__(128) unsigned char memory[];
    backward_chunk<P, N, kBulk>(args, maps, *reinterpret_cast<BackwardShared<P, N>*>(memory));
  }
}

// Grid: slots * (H / heads_per_block).
template <int P, int N, bool kBulk>
__global__ void __launch_bounds__(kHeadThreads, 1)
    backward_heads_kernel(const __grid_constant__ BackwardArgs args, const __grid_constant__ BackwardMaps maps) {
#ifndef MATVLM_SM90A
  if constexpr (!kBulk)
#endif
  {
    constexpr int kStages = kHeadStages<P, N, kBulk>;
    extern __shared__ __align__(128) unsigned char memory[];
    auto* stages = reinterpret_cast<BackwardShared<P, N>*>(memory);
    const int heads = args.heads_per_block;
    const int64_t parts = args.problem.heads / heads;
    const int64_t slot = blockIdx.x / parts;
    const int64_t part = blockIdx.x % parts;
    const int first_head = static_cast<int>(part) * heads;
    const int thread = static_cast<int>(threadIdx.x);
    const ChunkInfo chunk = args.problem.chunks[slot];
    if (chunk.count == 0) return clear_weight_sums(args, slot, first_head);
    const StageLoader<P, N, kBulk, kHeadThreads> loader{args, maps, chunk, slot, thread};
    for (int i = 0; i < kStages; ++i) loader.init(stages[i]);
    if (kBulk) __syncthreads();
    if (!kBulk || thread == 0) {
      for (int i = 0; i < min(kStages, heads); ++i) loader.start(stages[i], first_head + i);
    }
    backward_heads<P, N, kBulk>(args, loader, stages, first_head, part, parts);
  }
}

}  // namespace matvlm::ssd_chunk
