// Backward pass of the chunked SSD for sm_90a where several heads of a block share both B and C (Mamba-2's usual form):
// what does not depend on the head is done once a block. C_i . B_j are kept for all heads, and instead of a product for
// each head the decayed scores add up, so that there is one at the end:
//   dC_i += sum_j (sum_h G_ij dt_j) B_j,   dB_j += sum_i (sum_h G_ij dt_j) C_i
// Twelve warps, four for each of dC, dB and dx. They meet only at mbarriers: the first warp brings the next head's
// operands when all have read a stage, and adds up that head's gradients of the time steps while the others go on.
#pragma once

#include "autograd/ops/ssd_backward_kernels.cuh"

namespace matvlm::ssd_chunk {

// float32 scores of the blocks (i, j) of 16 x 16, i >= j, as fragments: a lane finds only what it has put there.
struct ScoreFragments {
  float4 blocks[kRowTiles * (kRowTiles + 1) / 2][2][32];
  __device__ float4* at(int i, int j, int lane) { return &blocks[i * (i + 1) / 2 + j][0][lane]; }
  __device__ void load(float (&s)[2][4], int i, int j, int lane) {
    const float4* from = at(i, j, lane);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const float4 x = from[n * 32];
      s[n][0] = x.x;
      s[n][1] = x.y;
      s[n][2] = x.z;
      s[n][3] = x.w;
    }
  }
  __device__ void store(const float (&s)[2][4], int i, int j, int lane) {
#pragma unroll
    for (int n = 0; n < 2; ++n) at(i, j, lane)[n * 32] = make_float4(s[n][0], s[n][1], s[n][2], s[n][3]);
  }
  // += s times a factor for each of the two rows.
  __device__ void add(const float (&s)[2][4], float upper, float lower, int i, int j, int lane) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float4& to = at(i, j, lane)[n * 32];
      const float4 x = to;
      to = make_float4(x.x + s[n][0] * upper, x.y + s[n][1] * upper, x.z + s[n][2] * lower, x.w + s[n][3] * lower);
    }
  }
};

// Operands of one head.
template <int P, int N>
struct GroupStage {
  alignas(128) bf16 x[Tile<P>::elements(kChunk)];
  alignas(128) bf16 dy[Tile<P>::elements(kChunk)];
  alignas(128) bf16 state[Tile<N>::elements(P)];
  alignas(128) bf16 dstate[Tile<N>::elements(P)];
};

// What the gradients of its time steps are made of; read when the next head's operands are already on their way.
struct GroupSteps {
  alignas(128) float cum[kChunk];
  float step[kChunk];
  StepSums sums;
};

template <int P, int N>
struct GroupShared {
  static constexpr int kStages = 2 * sizeof(GroupStage<P, N>) <= 120 * 1024 ? 2 : 1;
  GroupStage<P, N> stage[kStages];
  alignas(128) bf16 b[Tile<N>::elements(kChunk)];
  alignas(128) bf16 c[Tile<N>::elements(kChunk)];
  GroupSteps steps[2 * kStages];
  ScoreFragments products[2];  // C_i . B_j, rows i for dC and rows j for dx
  ScoreFragments sums[2];      // of G_ij dt_j over the heads, rows i for dC and rows j for dB
  uint64_t shared_full;        // B and C
  uint64_t cleared;            // rows past the end of a short chunk: B and C, then each head's
  uint64_t full[kStages], done[kStages];
};

// One head as the functions of ssd_backward.cuh see it.
struct HeadView {
  const bf16 *x, *dy, *state, *dstate;
  const float *cum, *step;
  StepSums& sums;
};

template <int P, int N>
struct GroupLoader {
  using Shared = GroupShared<P, N>;
  const BackwardArgs& args;
  const BackwardMaps& maps;
  ChunkInfo chunk;
  int64_t slot;
  int first_head;
  int thread;

  // By one thread, like everything but finish; followed by __syncthreads().
  __device__ void init(Shared& sm) const {
    hopper::barrier_init(mma::shared_address(&sm.shared_full), 1);
    hopper::barrier_init(mma::shared_address(&sm.cleared), kHeadThreads / 32);
    for (int i = 0; i < Shared::kStages; ++i) {
      hopper::barrier_init(mma::shared_address(&sm.full[i]), 1);
      hopper::barrier_init(mma::shared_address(&sm.done[i]), kHeadThreads / 32);
    }
    hopper::barrier_init_fence();
  }

  __device__ void start_shared(Shared& sm) const {
    const Problem& p = args.problem;
    const unsigned full = mma::shared_address(&sm.shared_full);
    const auto row = static_cast<int>(chunk.first);
    hopper::barrier_expect(full, 2 * 2 * Tile<N>::elements(kChunk));
    hopper::copy_box(mma::shared_address(sm.c), maps.c, full, 0, first_head / p.c.heads_per_group, row);
    hopper::copy_box(mma::shared_address(sm.b), maps.b, full, 0, first_head / p.b.heads_per_group, row);
  }

  // Head i of the block.
  __device__ void start(Shared& sm, int i) const {
    const Problem& p = args.problem;
    GroupStage<P, N>& stage = sm.stage[i % Shared::kStages];
    GroupSteps& steps = sm.steps[i % (2 * Shared::kStages)];
    const unsigned full = mma::shared_address(&sm.full[i % Shared::kStages]);
    const int h = first_head + i;
    const auto row = static_cast<int>(chunk.first);
    const auto state_row = static_cast<int>((slot * p.heads + h) * P);
    const int64_t from = (h * p.slots + slot) * kChunk;
    constexpr unsigned kBytes = sizeof(GroupStage<P, N>) + 2 * kChunk * sizeof(float);
    static_assert(sizeof(GroupStage<P, N>) == 2 * (2 * Tile<P>::elements(kChunk) + 2 * Tile<N>::elements(P)));
    hopper::barrier_expect(full, kBytes);
    hopper::copy_bulk(mma::shared_address(steps.cum), p.cum + from, kChunk * sizeof(float), full);
    hopper::copy_bulk(mma::shared_address(steps.step), p.step + from, kChunk * sizeof(float), full);
    hopper::copy_box(mma::shared_address(stage.state), maps.states, full, 0, 0, state_row);
    hopper::copy_box(mma::shared_address(stage.dstate), maps.dstates, full, 0, 0, state_row);
    hopper::copy_box(mma::shared_address(stage.dy), maps.dy, full, 0, h, row);
    hopper::copy_box(mma::shared_address(stage.x), maps.x, full, 0, h / p.x.heads_per_group, row);
  }

  // Zeros in two tiles where copies brought rows of the next sequence; by all threads, whose warps come from different
  // places of the code. `turn`: how often they have been here.
  template <int kWidth>
  __device__ void clear_tail(Shared& sm, bf16* first, bf16* second, int turn) const {
    if (chunk.count == kChunk) return;
    constexpr int kStride = Tile<kWidth>::kStride;
    for (int i = chunk.count * kStride / 2 + thread; i < kChunk * kStride / 2; i += kHeadThreads) {
      reinterpret_cast<unsigned*>(first)[i] = 0U;
      reinterpret_cast<unsigned*>(second)[i] = 0U;
    }
    hopper::async_proxy_fence();  // later copies come after these
    const unsigned cleared = mma::shared_address(&sm.cleared);
    __syncwarp();
    if (thread % 32 == 0) hopper::barrier_arrive(cleared);
    hopper::barrier_wait(cleared, static_cast<unsigned>(turn) & 1U);
  }

  __device__ void finish_shared(Shared& sm) const {
    hopper::barrier_wait(mma::shared_address(&sm.shared_full), 0);
    clear_tail<N>(sm, sm.b, sm.c, 0);
  }
  __device__ HeadView finish(Shared& sm, int i) const {
    GroupStage<P, N>& stage = sm.stage[i % Shared::kStages];
    GroupSteps& steps = sm.steps[i % (2 * Shared::kStages)];
    hopper::barrier_wait(mma::shared_address(&sm.full[i % Shared::kStages]),
                         static_cast<unsigned>(i / Shared::kStages) & 1U);
    clear_tail<P>(sm, stage.x, stage.dy, 1 + i);
    return {stage.x, stage.dy, stage.state, stage.dstate, steps.cum, steps.step, steps.sums};
  }
};

// rows S for fragments of 16 rows, a few columns of S at a time, so that the part of one head needs few registers:
// use(n, part) gets the columns from 16 n on.
template <int P, int N, class Use>
__device__ void each_product(const unsigned (&rows)[P / 16][4], const Tile<N>& tile, int lane, Use&& use) {
  constexpr int kTogether = N % 32 == 0 ? 2 : 1;
#pragma unroll
  for (int n = 0; n < N / 16; n += kTogether) {
    float part[kTogether][2][4];
#pragma unroll
    for (int m = 0; m < kTogether; ++m) clear(part[m]);
#pragma unroll
    for (int k = 0; k < P / 16; ++k) {
#pragma unroll
      for (int m = 0; m < kTogether; ++m) {
        unsigned b[4];
        tile.load_b_trans(b, k * 16, (n + m) * 16, lane);
        mma::multiply_add(part[m][0], rows[k], b[0], b[1]);
        mma::multiply_add(part[m][1], rows[k], b[2], b[3]);
      }
    }
#pragma unroll
    for (int m = 0; m < kTogether; ++m) use(n + m, part[m]);
  }
}

// A head's part of dC that comes from the old state, its G in the sums, and the sums over M. Rows i.
template <int P, int N>
__device__ void add_dc(float (&dc)[N / 8][4], GroupShared<P, N>& all, HeadView& sm, int warp, int lane) {
  const int row = warp * kTileRows + lane / 4;
  const float cum_row[2] = {sm.cum[row], sm.cum[row + 8]};
  const float decay[2] = {mma::exp2_approx(fminf(cum_row[0], 0.0F)), mma::exp2_approx(fminf(cum_row[1], 0.0F))};
  unsigned dy_rows[P / 16][4];
  load_rows<P>(dy_rows, Tile<P>(sm.dy), warp * kTileRows, lane);
  const Tile<N> c(all.c);
  float rows[2] = {0.0F, 0.0F};
  each_product<P, N>(dy_rows, Tile<N>(sm.state), lane, [&](int n, const float(&part)[2][4]) {
    unsigned own[4];
    c.load_a(own, warp * kTileRows, n * 16, lane);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      rows[0] += part[m][0] * mma::low_half(own[2 * m]) + part[m][1] * mma::high_half(own[2 * m]);
      rows[1] += part[m][2] * mma::low_half(own[2 * m + 1]) + part[m][3] * mma::high_half(own[2 * m + 1]);
#pragma unroll
      for (int e = 0; e < 4; ++e) dc[2 * n + m][e] += part[m][e] * decay[e / 2];
    }
  });
  rows[0] *= decay[0];
  rows[1] *= decay[1];
  const Tile<P> x(sm.x);
  const auto block = [&](int j, auto on_diagonal) {
    float cb[2][4];
    float g[2][4];
    scores<P>(g, dy_rows, x, j * kTileRows, lane);
    all.products[0].load(cb, warp, j, lane);
    weigh_scores<on_diagonal>(g, cb, rows, sm, j, cum_row, warp, lane);
    all.sums[0].add(g, 1.0F, 1.0F, warp, j, lane);
  };
#pragma unroll 1
  for (int j = 0; j < warp; ++j) block(j, std::false_type{});
  block(warp, std::true_type{});
  rows[0] = quad_sum(rows[0]);
  rows[1] = quad_sum(rows[1]);
  if (lane % 4 == 0) {
    sm.sums.row_sum[row] = rows[0];
    sm.sums.row_sum[row + 8] = rows[1];
  }
}

// A head's part of dB that comes from the gradient of the new state, and its G in the sums. Rows j.
template <int P, int N>
__device__ void add_db(float (&db)[N / 8][4], GroupShared<P, N>& all, HeadView& sm, int warp, int lane) {
  const int row = warp * kTileRows + lane / 4;
  const float last = sm.cum[kChunk - 1];
  const float cum_row[2] = {sm.cum[row], sm.cum[row + 8]};
  const float step[2] = {sm.step[row], sm.step[row + 8]};
  const float weight[2] = {mma::exp2_approx(fminf(last - cum_row[0], 0.0F)) * step[0],
                           mma::exp2_approx(fminf(last - cum_row[1], 0.0F)) * step[1]};
  unsigned x_rows[P / 16][4];
  load_rows<P>(x_rows, Tile<P>(sm.x), warp * kTileRows, lane);
  each_product<P, N>(x_rows, Tile<N>(sm.dstate), lane, [&](int n, const float(&part)[2][4]) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) db[2 * n + m][e] += part[m][e] * weight[e / 2];
    }
  });
  const Tile<P> dy(sm.dy);
  const auto block = [&](int i, auto on_diagonal) {
    float s[2][4];
    scores<P>(s, x_rows, dy, i * kTileRows, lane);
    decay_transposed<on_diagonal>(s, sm.cum, row, i * kTileRows, cum_row, lane % 4);
    all.sums[1].add(s, step[0], step[1], i, warp, lane);
  };
  block(warp, std::true_type{});
#pragma unroll 1
  for (int i = warp + 1; i < kRowTiles; ++i) block(i, std::false_type{});
}

// The C_i . B_j of this warp's rows for all heads, rows i (dC) or rows j (dx); or zeros in its sums of G (dC, dB).
template <int P, int N, Role kRole>
__device__ void prepare_scores(GroupShared<P, N>& all, const unsigned (&own)[N / 16][4], int warp, int lane) {
#pragma unroll 1
  for (int k = kRole == Role::dc ? 0 : warp; k <= (kRole == Role::dc ? warp : kRowTiles - 1); ++k) {
    float s[2][4];
    const int i = kRole == Role::dc ? warp : k;
    const int j = kRole == Role::dc ? k : warp;
    if constexpr (kRole != Role::db) {
      scores<N>(s, own, Tile<N>(kRole == Role::dc ? all.b : all.c), k * kTileRows, lane);
      all.products[kRole == Role::dc ? 0 : 1].store(s, i, j, lane);
    }
    clear(s);
    if constexpr (kRole != Role::dx) all.sums[kRole == Role::dc ? 0 : 1].store(s, i, j, lane);
  }
}

// sum += the summed scores times B (dC) or C (dB).
template <int P, int N, Role kRole>
__device__ void add_summed_scores(float (&sum)[N / 8][4], GroupShared<P, N>& all, int warp, int lane) {
#pragma unroll 1
  for (int k = kRole == Role::dc ? 0 : warp; k <= (kRole == Role::dc ? warp : kRowTiles - 1); ++k) {
    float s[2][4];
    unsigned a[4];
    all.sums[kRole == Role::dc ? 0 : 1].load(s, kRole == Role::dc ? warp : k, kRole == Role::dc ? k : warp, lane);
    pack_scores(a, s);
    add_product<N>(sum, a, Tile<N>(kRole == Role::dc ? all.b : all.c), k * kTileRows, lane);
  }
}

template <int P, int N, Role kRole>
__device__ void backward_group(const BackwardArgs& args, const GroupLoader<P, N>& loader, GroupShared<P, N>& all,
                               int64_t part) {
  using Shared = GroupShared<P, N>;
  constexpr int kWidth = kRole == Role::dx ? P : N;
  const int heads = args.heads_per_block;
  const int64_t parts = args.problem.heads / heads;
  const int warp = loader.thread / 32 % kRowTiles;
  const int lane = loader.thread % 32;
  const Output& out = kRole == Role::dc ? args.dc : kRole == Role::db ? args.db : args.dx;
  float sum[kWidth / 8][4];
  clear(sum);
  loader.finish_shared(all);
  unsigned own[N / 16][4];  // of C or B
  load_rows<N>(own, Tile<N>(kRole == Role::dc ? all.c : all.b), warp * kTileRows, lane);
  prepare_scores<P, N, kRole>(all, own, warp, lane);
  for (int i = 0; i < heads; ++i) {
    const int h = loader.first_head + i;
    HeadView sm = loader.finish(all, i);
    if constexpr (kRole == Role::dc) add_dc<P, N>(sum, all, sm, warp, lane);
    if constexpr (kRole == Role::db) {
      add_db<P, N>(sum, all, sm, warp, lane);
      dot_states<P, N>(sm, warp, lane);
    }
    if constexpr (kRole == Role::dx) {
      const auto score = [&](float(&s)[2][4], int k) { all.products[1].load(s, k, warp, lane); };
      add_dx<P, N, false>(sum, sm, own, score, args.d[h], warp, lane);
      if (out.heads_per_group == 1) {
        write_gradient<P>(sum, out, loader.chunk, h, part, parts, warp, lane);
        clear(sum);
      }
    }
    const unsigned done = mma::shared_address(&all.done[i % Shared::kStages]);
    __syncwarp();
    if (lane == 0) hopper::barrier_arrive(done);
    if (kRole == Role::dc && warp == 0) {
      hopper::barrier_wait(done, static_cast<unsigned>(i / Shared::kStages) & 1U);
      if (lane == 0 && i + Shared::kStages < heads) loader.start(all, i + Shared::kStages);
      __syncwarp();
      step_gradients(args, sm, loader.chunk, loader.slot, h, lane);
      __syncwarp();
    }
  }
  if constexpr (kRole != Role::dx) add_summed_scores<P, N, kRole>(sum, all, warp, lane);
  if (kRole != Role::dx || out.heads_per_group != 1) {
    write_gradient<kWidth>(sum, out, loader.chunk, loader.first_head, part, parts, warp, lane);
  }
}

// Whether all heads of every block share B and C.
inline bool group_applies(const BackwardArgs& args) {
  return args.problem.b.heads_per_group % args.heads_per_block == 0 &&
         args.problem.c.heads_per_group % args.heads_per_block == 0;
}

// Grid: slots * (H / heads_per_block).
template <int P, int N>
__global__ void __launch_bounds__(kHeadThreads, 1)
    backward_group_kernel(const __grid_constant__ BackwardArgs args, const __grid_constant__ BackwardMaps maps) {
#ifdef MATVLM_SM90A
  static_assert(sizeof(GroupShared<P, N>) <= 227 * 1024);
  extern __shared__ __align__(128) unsigned char memory[];
  auto& all = *reinterpret_cast<GroupShared<P, N>*>(memory);
  const int heads = args.heads_per_block;
  const int64_t parts = args.problem.heads / heads;
  const int64_t slot = blockIdx.x / parts;
  const int64_t part = blockIdx.x % parts;
  const int first_head = static_cast<int>(part) * heads;
  const int thread = static_cast<int>(threadIdx.x);
  const ChunkInfo chunk = args.problem.chunks[slot];
  if (chunk.count == 0) return clear_weight_sums(args, slot, first_head);
  const GroupLoader<P, N> loader{args, maps, chunk, slot, first_head, thread};
  if (thread == 0) loader.init(all);
  __syncthreads();
  if (thread == 0) {
    loader.start_shared(all);
    for (int i = 0; i < min(GroupShared<P, N>::kStages, heads); ++i) loader.start(all, i);
  }
  if (thread < 128) {
    backward_group<P, N, Role::dc>(args, loader, all, part);
  } else if (thread < 256) {
    backward_group<P, N, Role::db>(args, loader, all, part);
  } else {
    backward_group<P, N, Role::dx>(args, loader, all, part);
  }
#endif
}

}  // namespace matvlm::ssd_chunk
