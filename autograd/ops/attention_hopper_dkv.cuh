// Attention backward for sm_90a, gradients of k and v. A block's two computing warpgroups own 64 keys of a key head
// each; the queries of its query heads pass by in order, with their output gradients and statistics. Logits and
// gradients are made transposed (key rows, query columns), so that rounded they are the register operands of the
// products that add into dk and dv. See attention_hopper_dq.cuh for why there are two kernels.
#pragma once

#include "autograd/ops/attention_hopper.cuh"

namespace matvlm::attention_kernels {

struct HopperDkv {
  Bf16Backward args;
  WorkList work;
  bool dk_pairs, dv_pairs, dk_vectors, dv_vectors;
  RowMaps k, v;
  CUtensorMap q, grad;
};

// kGroups computing warpgroups of 64 keys, tiles of kTileQueries queries (what the registers hold), a ring of
// kRingStages (used by the product under way, by the tile at hand, on its way), kOwnBuffers places for the keys (with
// two, one is in use while the next one comes).
template <int kHeadDim, int kWarpgroups, int kTileQueries, int kRingStages, int kOwnBuffers>
struct DkvTiles : HopperBlock<kHeadDim, kWarpgroups, kRingStages> {
  static constexpr int kOwn = kOwnBuffers;
  static constexpr int kQueries = kTileQueries;
  static constexpr int kKeys = HopperBlock<kHeadDim, kWarpgroups, kRingStages>::kRows;
  using Own = RowTile<kHeadDim, kKeys>;
  using Passing = TileOf<kHeadDim, kQueries>;
};

template <int kDim>
struct DkvChoice;
template <>
struct DkvChoice<64> : DkvTiles<64, 2, 64, 3, 2> {};
template <>
struct DkvChoice<80> : DkvTiles<80, 2, 64, 3, 2> {};
template <>
struct DkvChoice<96> : DkvTiles<96, 2, 48, 3, 2> {};
template <>
struct DkvChoice<128> : DkvTiles<128, 2, 48, 3, 2> {};

// A tile of keys as the producer hands it on. turns < 0: no more work; 0: no query sees these keys.
struct DkvItem {
  int64_t k_row;
  int kv_head;
  int rows;     // valid keys, may be more than the tile has
  int visible;  // keys of this tile that the first query of the first turn sees, negative: none for so many queries
  int tiles;    // of queries, for each query head
  int turns;    // tiles * query heads of the key head
};

template <class T>
struct DkvShared {
  alignas(1024) unsigned char k[T::kOwn][T::Own::kBytes];
  alignas(1024) unsigned char v[T::kOwn][T::Own::kBytes];
  alignas(1024) unsigned char q[T::kStages][T::Passing::kBytes];
  alignas(1024) unsigned char grad[T::kStages][T::Passing::kBytes];
  alignas(16) float lse[T::kStages][T::kQueries];  // in base 2; +inf past the end, where every probability is then 0
  float delta[T::kStages][T::kQueries];
  alignas(8) uint64_t full[T::kStages], empty[T::kStages];
  uint64_t own_full[T::kOwn], own_empty[T::kOwn], patch;
  DkvItem items[T::kOwn];
};

template <class T>
class DkvProducer {
 public:
  __device__ DkvProducer(const HopperDkv& f, DkvShared<T>& shared)
      : f_(f), s_(shared), lane_(static_cast<int>(threadIdx.x) % 32) {}

  __device__ void run() {
    int next = 0;
    for (int number = static_cast<int>(blockIdx.x); number < f_.work.items(); number = next) {
      next = next_work(f_.work, lane_);
      do_item(WorkItem(f_.work, number));
    }
    DkvItem end{};
    end.turns = -1;
    put_item(end);
    if (lane_ == 0) end_work(f_.work);
  }

 private:
  __device__ void do_item(const WorkItem& work) {
    const Bf16Forward& a = f_.args.forward;
    const int64_t q_begin = a.ranges.q_begin[work.sequence];
    const int64_t k_begin = a.ranges.k_begin[work.sequence];
    const int queries = static_cast<int>(a.ranges.q_end[work.sequence] - q_begin);
    const int keys = static_cast<int>(a.ranges.k_end[work.sequence] - k_begin);
    const int first = (f_.work.tiles - 1 - work.tile) * T::kKeys;  // the first keys are seen by most queries
    if (first >= keys) return;
    const int group = static_cast<int>(a.shape.heads / a.shape.kv_heads);
    // The first query that sees a key of this tile, rounded down to a tile of queries.
    const int start = a.shape.causal ? max(first - (keys - queries), 0) / T::kQueries * T::kQueries : 0;
    DkvItem item;
    item.k_row = k_begin + first;
    item.kv_head = work.head;
    item.rows = keys - first;
    item.visible = a.shape.causal ? keys - queries + start + 1 - first : T::kKeys;
    item.tiles = start < queries ? (queries - start + T::kQueries - 1) / T::kQueries : 0;
    item.turns = item.tiles * group;
    put_item(item);
    for (int g = 0; g < group; ++g) {
      for (int t = 0; t < item.tiles; ++t) {
        const int query = start + t * T::kQueries;
        load(work.head * group + g, q_begin + query, queries - query);
      }
    }
  }

  __device__ void put_item(const DkvItem& item) {
    hopper::barrier_wait(shared_of(s_.own_empty[own_.stage]), own_.parity ^ 1);
    if (lane_ == 0) {
      s_.items[own_.stage] = item;
      const unsigned barrier = shared_of(s_.own_full[own_.stage]);
      hopper::barrier_expect(barrier, item.turns > 0 ? 2 * T::Own::kCopied : 0);
      if (item.turns > 0) {
        T::Own::copy(shared_of(s_.k[own_.stage]), f_.k, barrier, item.kv_head, static_cast<int>(item.k_row));
        T::Own::copy(shared_of(s_.v[own_.stage]), f_.v, barrier, item.kv_head, static_cast<int>(item.k_row));
      }
    }
    own_.next();
    __syncwarp();
  }

  // Rows past the sequence's end are cleared: their weights are 0, but 0 * NaN is not. Two arrivals fill a stage: the
  // copies' and the statistics'.
  __device__ void load(int head, int64_t row, int valid) {
    const unsigned stage = ring_.stage;
    hopper::barrier_wait(shared_of(s_.empty[stage]), ring_.parity ^ 1);
    const unsigned full = shared_of(s_.full[stage]);
    const unsigned q = shared_of(s_.q[stage]);
    const unsigned grad = shared_of(s_.grad[stage]);
    const bool clear = valid < T::kQueries;
    const unsigned barrier = clear ? shared_of(s_.patch) : full;
    if (lane_ == 0) {
      hopper::barrier_expect(barrier, 2 * T::Passing::kBytes);
      T::Passing::copy(q, f_.q, barrier, head, static_cast<int>(row));
      T::Passing::copy(grad, f_.grad, barrier, head, static_cast<int>(row));
    }
    __syncwarp();
    const Bf16Forward& a = f_.args.forward;
#pragma unroll
    for (int i = lane_; i < T::kQueries; i += 32) {
      const int64_t at = head * a.tokens + row + i;
      s_.lse[stage][i] = i < valid ? a.lse[at] * kLog2E : INFINITY;
      s_.delta[stage][i] = i < valid ? f_.args.delta[at] : 0.0F;
    }
    if (clear) {
      hopper::barrier_wait(barrier, patch_parity_);
      patch_parity_ ^= 1;
      T::Passing::clear(q, valid, lane_);
      T::Passing::clear(grad, valid, lane_);
      hopper::async_proxy_fence();
      __syncwarp();
      if (lane_ == 0) hopper::barrier_arrive(full);
    }
    __syncwarp();
    if (lane_ == 0) hopper::barrier_arrive(full);
    ring_.next();
  }

  const HopperDkv& f_;
  DkvShared<T>& s_;
  int lane_;
  hopper::Ring<T::kStages> ring_;
  hopper::Ring<T::kOwn> own_;
  unsigned patch_parity_ = 0;
};

template <class T>
class DkvConsumer {
  static constexpr int kLogits = T::kQueries / 2;  // registers of a tile of logits
  static constexpr int kOut = T::kDim / 2;
  using Weights = unsigned[T::kQueries / 16][4];

 public:
  __device__ DkvConsumer(const HopperDkv& f, DkvShared<T>& shared)
      : f_(f),
        s_(shared),
        group_(hopper::uniform(static_cast<int>(threadIdx.x) / 128) - 1),
        lane_(static_cast<int>(threadIdx.x) % 32),
        row_(group_ * 64 + static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane_ / 4) {}

  __device__ void run() {
    for (;; own_.next()) {
      hopper::barrier_wait(shared_of(s_.own_full[own_.stage]), own_.parity);
      item_ = &s_.items[own_.stage];
      if (item_->turns < 0) return;
      if (group_ * 64 < item_->rows) {
        differentiate();
      } else {
        skip();
      }
      release_warp(s_.own_empty[own_.stage], lane_);
    }
  }

 private:
  // No key of this warpgroup: only the ring moves on.
  __device__ void skip() {
    for (int t = 0; t < item_->turns; ++t) {
      hopper::barrier_wait(shared_of(s_.full[ring_.stage]), ring_.parity);
      release_warp(s_.empty[ring_.stage], lane_);
      ring_.next();
    }
  }

  __device__ void differentiate() {
    float dk[kOut];
    float dv[kOut];
    if (item_->turns > 0) {
      sum(dk, dv);
    } else {
#pragma unroll
      for (int i = 0; i < kOut; ++i) dk[i] = dv[i] = 0.0F;
    }
    const Bf16Backward& b = f_.args;
    const int p = static_cast<int>(b.forward.shape.head_dim);
    const int column = item_->kv_head * p;
    if (b.dv != nullptr) {
      store_group<T::kDim>(
          {b.dv + item_->k_row * b.dv_stride + column, b.dv_stride, f_.dv_pairs, b.accumulate_dv, f_.dv_vectors}, dv,
          1.0F, row_, item_->rows, p);
    }
    if (b.dk != nullptr) {
      // One row after the other: registers are scarce.
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        TurnBack<T::kDim>(b.turned, item_->k_row + row_ + 8 * half, item_->k_row + item_->rows).apply(dk, half);
      }
      store_group<T::kDim>(
          {b.dk + item_->k_row * b.dk_stride + column, b.dk_stride, f_.dk_pairs, b.accumulate_dk, f_.dk_vectors}, dk,
          static_cast<float>(b.forward.shape.scale), row_, item_->rows, p);
    }
  }

  __device__ void sum(float (&dk)[kOut], float (&dv)[kOut]) {
    float logits[kLogits];
    float grads[kLogits];
    Weights dv_weights;
    Weights dk_weights;
    hopper::barrier_wait(shared_of(s_.full[ring_.stage]), ring_.parity);
    start_rows(logits, shared_of(s_.k[own_.stage]), shared_of(s_.q[ring_.stage]));
    start_rows(grads, shared_of(s_.v[own_.stage]), shared_of(s_.grad[ring_.stage]));
    unsigned stage = take_turn<true>(logits, grads, dk, dv, dk_weights, dv_weights, 0, 0);
    const int turns = hopper::uniform(item_->turns);
    int tile = 0;  // of the query head
    for (int turn = 1; turn < turns; ++turn) {
      if (++tile == item_->tiles) tile = 0;
      hopper::barrier_wait(shared_of(s_.full[ring_.stage]), ring_.parity);
      start_rows(logits, shared_of(s_.k[own_.stage]), shared_of(s_.q[ring_.stage]));
      start_sum(dk, dk_weights, shared_of(s_.q[stage]), turn > 1 ? 1 : 0);
      start_rows(grads, shared_of(s_.v[own_.stage]), shared_of(s_.grad[ring_.stage]));
      stage = take_turn<false>(logits, grads, dk, dv, dk_weights, dv_weights, tile, stage);
    }
    start_sum(dk, dk_weights, shared_of(s_.q[stage]), item_->turns > 1 ? 1 : 0);
    hopper::wgmma_wait<0>();
    hopper::pin(dk);
    hopper::pin(dv);
    hopper::pin(dk_weights);
    hopper::pin(dv_weights);
    release_warp(s_.empty[stage], lane_);
  }

  // Waits for the products of a turn, starts dv and makes the weights for dk. In flight at the start: dv of the turn
  // before, logits, dk of the turn before, grads, one group each in this order (the first turn: logits, grads); at the
  // end dv. The stage of the turn before becomes free. Returns the turn's stage; the ring moves on.
  template <bool kFirst>
  __device__ unsigned take_turn(float (&logits)[kLogits], float (&grads)[kLogits], float (&dk)[kOut], float (&dv)[kOut],
                                Weights& dk_weights, Weights& dv_weights, int tile, unsigned stage_before) {
    const unsigned stage = ring_.stage;
    hopper::wgmma_wait<kFirst ? 1 : 2>();
    hopper::pin(logits);
    if constexpr (!kFirst) {
      hopper::pin(dv);
      hopper::pin(dv_weights);
    }
    const bool masked = probabilities(logits, s_.lse[stage], tile);
    round_weights(logits, dv_weights);
    start_sum(dv, dv_weights, shared_of(s_.grad[stage]), kFirst ? 0 : 1);
    hopper::wgmma_wait<1>();
    hopper::pin(grads);
    if constexpr (!kFirst) {
      hopper::pin(dk);
      hopper::pin(dk_weights);
      release_warp(s_.empty[stage_before], lane_);
    }
    if (masked) {
      differences<true>(logits, grads, s_.delta[stage]);
    } else {
      differences<false>(logits, grads, s_.delta[stage]);
    }
    round_weights(logits, dk_weights);
    ring_.next();
    return stage;
  }

  // x = (this warpgroup's rows of the tile at `own`) (rows of the tile at `passing`)^T
  __device__ void start_rows(float (&x)[kLogits], unsigned own, unsigned passing) {
    hopper::pin(x);
    hopper::wgmma_fence();
#pragma unroll
    for (int c = 0; c < T::kDim; c += 16) {
      hopper::Wgmma<T::kQueries>::template shared<0, 0>(x, T::Own::by_rows(own, group_ * 64, c),
                                                        T::Passing::Operand::by_rows(passing, 0, c), c > 0);
    }
    hopper::wgmma_commit();
  }

  // x += weights (rows of the tile at `passing`)
  __device__ void start_sum(float (&x)[kOut], Weights& weights, unsigned passing, int add) {
    hopper::pin(x);
    hopper::pin(weights);
    hopper::wgmma_fence();
#pragma unroll
    for (int i = 0; i < T::kQueries / 16; ++i) {
      hopper::Wgmma<T::kDim>::template registers<1>(x, weights[i], T::Passing::Operand::by_columns(passing, i * 16, 0),
                                                    i > 0 ? 1 : add);
    }
    hopper::wgmma_commit();
  }

  // Logits -> probabilities, 0 where the query does not see the key. True where there may be such.
  __device__ bool probabilities(float (&logits)[kLogits], const float* lse, int tile) const {
    const float factor = static_cast<float>(f_.args.forward.shape.scale) * kLog2E;
#pragma unroll
    for (int n = 0; n < kLogits / 4; ++n) {
      const float2 l = *reinterpret_cast<const float2*>(lse + n * 8 + lane_ % 4 * 2);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        logits[4 * n + e] = mma::exp2_approx(fmaf(logits[4 * n + e], factor, e % 2 == 0 ? -l.x : -l.y));
      }
    }
    if (!f_.args.forward.shape.causal) return false;
    // Key `row` is seen by the queries `column` of this turn with row < visible + column.
    const int visible = item_->visible + tile * T::kQueries;
    if (visible >= (group_ + 1) * 64) return false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int first = row_ + 8 * half - visible - lane_ % 4 * 2;  // hidden up to this column
#pragma unroll
      for (int n = 0; n < kLogits / 4; ++n) {
        if (n * 8 <= first) logits[4 * n + 2 * half] = 0.0F;
        if (n * 8 + 1 <= first) logits[4 * n + 2 * half + 1] = 0.0F;
      }
    }
    return true;
  }

  // Probabilities and their gradients -> gradients of the logits. The mask is a selection: a probability of 0 stays 0
  // also where the gradient is not finite.
  template <bool kMasked>
  __device__ void differences(float (&logits)[kLogits], const float (&grads)[kLogits], const float* delta) const {
#pragma unroll
    for (int n = 0; n < kLogits / 4; ++n) {
      const float2 d = *reinterpret_cast<const float2*>(delta + n * 8 + lane_ % 4 * 2);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float x = logits[4 * n + e];
        const float product = x * (grads[4 * n + e] - (e % 2 == 0 ? d.x : d.y));
        logits[4 * n + e] = kMasked && x == 0.0F ? 0.0F : product;
      }
    }
  }

  const HopperDkv& f_;
  DkvShared<T>& s_;
  int group_, lane_;
  int row_;                        // of the thread in the block's tile; the other one is 8 below
  const DkvItem* item_ = nullptr;  // in shared memory: registers are scarce
  hopper::Ring<T::kStages> ring_;
  hopper::Ring<T::kOwn> own_;
};

template <class T>
__global__ void __launch_bounds__(T::kThreads, 1) hopper_dkv_kernel(const __grid_constant__ HopperDkv f) {
#ifdef MATVLM_SM90A
  extern __shared__ __align__(1024) unsigned char hopper_shared[];
  auto& shared = *reinterpret_cast<DkvShared<T>*>(hopper_shared);
  if (threadIdx.x == 0) {
    if (mma::shared_address(hopper_shared) % 1024 != 0) __trap();  // the swizzles count from there
    constexpr unsigned kWarps = 4 * T::kGroups;
    for (int i = 0; i < T::kStages; ++i) {
      hopper::barrier_init(shared_of(shared.full[i]), 2);
      hopper::barrier_init(shared_of(shared.empty[i]), kWarps);
    }
    for (int i = 0; i < T::kOwn; ++i) {
      hopper::barrier_init(shared_of(shared.own_full[i]), 1);
      hopper::barrier_init(shared_of(shared.own_empty[i]), kWarps);
    }
    hopper::barrier_init(shared_of(shared.patch), 1);
    hopper::barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    hopper::register_budget_lower<T::kLoadRegisters>();
    if (threadIdx.x < 32) DkvProducer<T>(f, shared).run();
  } else {
    hopper::register_budget_raise<T::kComputeRegisters>();
    DkvConsumer<T>(f, shared).run();
  }
#endif
}

template <class T>
void dkv_tiles(Context& ctx, const Bf16Backward& args) {
  const Bf16Forward& a = args.forward;
  const AttentionShape& shape = a.shape;
  HopperDkv f;
  f.args = args;
  f.work = work_list(ctx, shape, a.ranges, a.ranges.longest_k, T::kKeys, shape.kv_heads,
                     a.ranges.longest_q * shape.head_dim * 4 * shape.heads / shape.kv_heads);
  if (f.work.items() == 0) return;
  f.dk_pairs = aligned_heads(args.dk, args.dk_stride, shape.head_dim, 2);
  f.dk_vectors = aligned_heads(args.dk, args.dk_stride, shape.head_dim, 8);
  f.dv_vectors = aligned_heads(args.dv, args.dv_stride, shape.head_dim, 8);
  f.dv_pairs = aligned_heads(args.dv, args.dv_stride, shape.head_dim, 2);
  f.k = T::Own::maps(a.k, shape, shape.kv_heads, a.kv_rows, a.k_stride);
  f.v = T::Own::maps(a.v, shape, shape.kv_heads, a.kv_rows, a.v_stride);
  constexpr int kColumns = kBlockColumns<T::kDim>;
  f.q = head_map(a.q, shape.head_dim, shape.heads, a.tokens, a.q_stride, kColumns, T::kQueries);
  f.grad = head_map(args.grad_out, shape.head_dim, shape.heads, a.tokens, args.grad_out_stride, kColumns, T::kQueries);
  static_assert(sizeof(DkvShared<T>) <= kHopperShared);
  launch_hopper(ctx, hopper_dkv_kernel<T>, f.work.items(), T::kThreads, sizeof(DkvShared<T>), f);
}

template <int kDim>
void dkv_hopper(Context& ctx, const Bf16Backward& args) {
  dkv_tiles<DkvChoice<kDim>>(ctx, args);
}

}  // namespace matvlm::attention_kernels
