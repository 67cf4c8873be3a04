// Attention backward for sm_90a, gradient of q. As many products as the key side and the query side need each (3 here,
// 4 in attention_hopper_dkv.cuh): 7 where 5 would do if the blocks of a query tile added into one float32 dq. That sum
// would have to be ordered to give the same bits every time, written and read once per pair of tiles (400 MB for 4 x
// 1428 tokens of 32 heads of 80), cleared before and rounded after; two more products on the tensor cores, which the
// softmax leaves idle anyhow, cost less and keep every sum in registers.
//
// A block's two computing warpgroups own 64 queries each; keys and values pass by. The tensor cores always have work:
// while the probabilities of a tile are made, the product with the tile before and this tile's gradients run.
#pragma once

#include "autograd/ops/attention_hopper.cuh"

namespace matvlm::attention_kernels {

struct HopperDq {
  Bf16Backward args;
  WorkList work;
  bool dq_pairs, dq_vectors;
  RowMaps q, grad, v;
  CUtensorMap k;
};

// kGroups computing warpgroups of 64 queries, tiles of kTileKeys keys (what the registers hold), a ring of kRingStages
// (used by the product under way, by the tile at hand, on its way), kOwnBuffers places for the queries (with two, one
// is in use while the next one comes).
template <int kHeadDim, int kWarpgroups, int kTileKeys, int kRingStages, int kOwnBuffers>
struct DqTiles : HopperBlock<kHeadDim, kWarpgroups, kRingStages> {
  static constexpr int kOwn = kOwnBuffers;
  static constexpr int kKeys = kTileKeys;
  static constexpr int kQueries = HopperBlock<kHeadDim, kWarpgroups, kRingStages>::kRows;
  using Own = RowTile<kHeadDim, kQueries>;
  using K = TileOf<kHeadDim, kKeys>;
  using V = RowTile<kHeadDim, kKeys>;
};

template <int kDim>
struct DqChoice;
template <>
struct DqChoice<64> : DqTiles<64, 2, 128, 3, 2> {};
template <>
struct DqChoice<80> : DqTiles<80, 3, 64, 3, 2> {};
template <>
struct DqChoice<96> : DqTiles<96, 2, 96, 3, 2> {};
template <>
struct DqChoice<128> : DqTiles<128, 2, 96, 3, 1> {};

// A tile of queries as the producer hands it on. tiles == 0: no more work.
struct DqItem {
  int64_t q_row;
  int head;
  int rows;     // valid queries, may be more than the tile has
  int keys;     // of the sequence
  int visible;  // keys that the first query sees
  int tiles;    // of keys
};

template <class T>
struct DqShared {
  alignas(1024) unsigned char q[T::kOwn][T::Own::kBytes];
  alignas(1024) unsigned char grad[T::kOwn][T::Own::kBytes];
  alignas(1024) unsigned char k[T::kStages][T::K::kBytes];
  alignas(1024) unsigned char v[T::kStages][T::V::kBytes];
  alignas(8) uint64_t full[T::kStages], empty[T::kStages];
  uint64_t own_full[T::kOwn], own_empty[T::kOwn], patch;
  DqItem items[T::kOwn];
};

template <class T>
class DqProducer {
 public:
  __device__ DqProducer(const HopperDq& f, DqShared<T>& shared)
      : f_(f), s_(shared), lane_(static_cast<int>(threadIdx.x) % 32) {}

  __device__ void run() {
    int next = 0;
    for (int number = static_cast<int>(blockIdx.x); number < f_.work.items(); number = next) {
      next = next_work(f_.work, lane_);
      do_item(WorkItem(f_.work, number));
    }
    put_item({});
    if (lane_ == 0) end_work(f_.work);
  }

 private:
  __device__ void do_item(const WorkItem& work) {
    const Bf16Forward& a = f_.args.forward;
    const int64_t q_begin = a.ranges.q_begin[work.sequence];
    const int64_t k_begin = a.ranges.k_begin[work.sequence];
    const int queries = static_cast<int>(a.ranges.q_end[work.sequence] - q_begin);
    const int first = work.tile * T::kQueries;
    if (first >= queries) return;
    DqItem item;
    item.q_row = q_begin + first;
    item.head = work.head;
    item.rows = queries - first;
    item.keys = static_cast<int>(a.ranges.k_end[work.sequence] - k_begin);
    item.visible = a.shape.causal ? item.keys - queries + first + 1 : item.keys;
    const int seen = min(item.keys, item.visible + min(item.rows, T::kQueries) - 1);
    item.tiles = (seen + T::kKeys - 1) / T::kKeys;
    put_item(item);
    const int kv_head = work.head / static_cast<int>(a.shape.heads / a.shape.kv_heads);
    for (int t = item.tiles - 1; t >= 0; --t) {
      load(kv_head, static_cast<int>(k_begin) + t * T::kKeys, item.keys - t * T::kKeys);
    }
  }

  __device__ void put_item(const DqItem& item) {
    hopper::barrier_wait(shared_of(s_.own_empty[own_.stage]), own_.parity ^ 1);
    if (lane_ == 0) {
      s_.items[own_.stage] = item;
      const unsigned barrier = shared_of(s_.own_full[own_.stage]);
      hopper::barrier_expect(barrier, item.tiles > 0 ? 2 * T::Own::kCopied : 0);
      if (item.tiles > 0) {
        T::Own::copy(shared_of(s_.q[own_.stage]), f_.q, barrier, item.head, static_cast<int>(item.q_row));
        T::Own::copy(shared_of(s_.grad[own_.stage]), f_.grad, barrier, item.head, static_cast<int>(item.q_row));
      }
    }
    own_.next();
    __syncwarp();
  }

  // Key rows past the sequence's end are cleared: their weights are 0, but 0 * NaN is not.
  __device__ void load(int head, int row, int valid) {
    hopper::barrier_wait(shared_of(s_.empty[ring_.stage]), ring_.parity ^ 1);
    const unsigned full = shared_of(s_.full[ring_.stage]);
    const unsigned k = shared_of(s_.k[ring_.stage]);
    const bool clear = valid < T::kKeys;
    const unsigned barrier = clear ? shared_of(s_.patch) : full;
    if (lane_ == 0) {
      hopper::barrier_expect(barrier, T::K::kBytes + T::V::kCopied);
      T::K::copy(k, f_.k, barrier, head, row);
      T::V::copy(shared_of(s_.v[ring_.stage]), f_.v, barrier, head, row);
    }
    __syncwarp();
    if (clear) {
      hopper::barrier_wait(barrier, patch_parity_);
      patch_parity_ ^= 1;
      T::K::clear(k, valid, lane_);
      hopper::async_proxy_fence();
      __syncwarp();
      if (lane_ == 0) hopper::barrier_arrive(full);
    }
    ring_.next();
  }

  const HopperDq& f_;
  DqShared<T>& s_;
  int lane_;
  hopper::Ring<T::kStages> ring_;
  hopper::Ring<T::kOwn> own_;
  unsigned patch_parity_ = 0;
};

template <class T>
class DqConsumer {
  static constexpr int kLogits = T::kKeys / 2;  // registers of a tile of logits
  static constexpr int kOut = T::kDim / 2;

 public:
  __device__ DqConsumer(const HopperDq& f, DqShared<T>& shared)
      : f_(f),
        s_(shared),
        group_(hopper::uniform(static_cast<int>(threadIdx.x) / 128) - 1),
        lane_(static_cast<int>(threadIdx.x) % 32),
        row_(group_ * 64 + static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane_ / 4) {}

  __device__ void run() {
    for (;; own_.next()) {
      hopper::barrier_wait(shared_of(s_.own_full[own_.stage]), own_.parity);
      item_ = &s_.items[own_.stage];
      if (item_->tiles == 0) return;
      if (group_ * 64 < item_->rows) {
        differentiate();
      } else {
        skip();
      }
      release_warp(s_.own_empty[own_.stage], lane_);
    }
  }

 private:
  // No query of this warpgroup: only the ring moves on.
  __device__ void skip() {
    for (int t = 0; t < item_->tiles; ++t) {
      hopper::barrier_wait(shared_of(s_.full[ring_.stage]), ring_.parity);
      release_warp(s_.empty[ring_.stage], lane_);
      ring_.next();
    }
  }

  __device__ void differentiate() {
    const Bf16Forward& a = f_.args.forward;
    float lse[2];  // in base 2; +inf past the end, where every probability is then 0
    float delta[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool valid = row_ + 8 * half < item_->rows;
      const int64_t at = item_->head * a.tokens + item_->q_row + row_ + 8 * half;
      lse[half] = valid ? a.lse[at] * kLog2E : INFINITY;
      delta[half] = valid ? f_.args.delta[at] : 0.0F;
    }
    float logits[kLogits];
    float grads[kLogits];
    float dq[kOut];
    unsigned weights[T::kKeys / 16][4];
    hopper::barrier_wait(shared_of(s_.full[ring_.stage]), ring_.parity);
    start_rows<typename T::K::Operand>(logits, shared_of(s_.q[own_.stage]), shared_of(s_.k[ring_.stage]));
    start_rows<typename T::V>(grads, shared_of(s_.grad[own_.stage]), shared_of(s_.v[ring_.stage]));
    unsigned stage = take_turn<true>(logits, grads, dq, weights, lse, delta, item_->tiles - 1);
    int add = 0;
    for (int t = hopper::uniform(item_->tiles) - 2; t >= 0; --t) {
      hopper::barrier_wait(shared_of(s_.full[ring_.stage]), ring_.parity);
      start_rows<typename T::K::Operand>(logits, shared_of(s_.q[own_.stage]), shared_of(s_.k[ring_.stage]));
      start_dq(dq, weights, shared_of(s_.k[stage]), add);
      start_rows<typename T::V>(grads, shared_of(s_.grad[own_.stage]), shared_of(s_.v[ring_.stage]));
      const unsigned before = stage;
      stage = take_turn<false>(logits, grads, dq, weights, lse, delta, t);
      release_warp(s_.empty[before], lane_);
      add = 1;
    }
    start_dq(dq, weights, shared_of(s_.k[stage]), add);
    const int64_t end = item_->q_row + item_->rows;
    const TurnBack<T::kDim> turn(f_.args.turned, item_->q_row + row_, end);
    const TurnBack<T::kDim> turn_below(f_.args.turned, item_->q_row + row_ + 8, end);
    hopper::wgmma_wait<0>();
    hopper::pin(dq);
    hopper::pin(weights);
    release_warp(s_.empty[stage], lane_);
    turn.apply(dq, 0);
    turn_below.apply(dq, 1);
    const int p = static_cast<int>(a.shape.head_dim);
    store_group<T::kDim>({f_.args.dq + item_->q_row * f_.args.dq_stride + item_->head * p, f_.args.dq_stride,
                          f_.dq_pairs, f_.args.accumulate_dq, f_.dq_vectors},
                         dq, static_cast<float>(a.shape.scale), row_, item_->rows, p);
  }

  // Waits for the products of tile t and of dq before it, and makes the tile's weights for dq. In flight at the start:
  // logits, dq (not in the first turn), grads, one group each in this order; at the end none. Returns the tile's stage;
  // the ring moves on.
  template <bool kFirst>
  __device__ unsigned take_turn(float (&logits)[kLogits], float (&grads)[kLogits], float (&dq)[kOut],
                                unsigned (&weights)[T::kKeys / 16][4], const float (&lse)[2], const float (&delta)[2],
                                int t) {
    hopper::wgmma_wait<kFirst ? 1 : 2>();
    hopper::pin(logits);
    const bool masked = probabilities(logits, lse, t);
    hopper::wgmma_wait<0>();
    hopper::pin(grads);
    if constexpr (!kFirst) {
      hopper::pin(dq);
      hopper::pin(weights);
    }
    if (masked) {
#pragma unroll
      for (int i = 0; i < kLogits; ++i) {
        // The mask is a selection: a probability of 0 stays 0 also where the gradient is not finite.
        logits[i] = logits[i] == 0.0F ? 0.0F : logits[i] * (grads[i] - delta[i / 2 % 2]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kLogits; ++i) logits[i] *= grads[i] - delta[i / 2 % 2];
    }
    round_weights(logits, weights);
    const unsigned stage = ring_.stage;
    ring_.next();
    return stage;
  }

  // x = (this warpgroup's rows of the tile at `own`) (rows of the tile at `other`)^T
  template <class Other>
  __device__ void start_rows(float (&x)[kLogits], unsigned own, unsigned other) {
    hopper::pin(x);
    hopper::wgmma_fence();
#pragma unroll
    for (int c = 0; c < T::kDim; c += 16) {
      hopper::Wgmma<T::kKeys>::template shared<0, 0>(x, T::Own::by_rows(own, group_ * 64, c),
                                                     Other::by_rows(other, 0, c), c > 0);
    }
    hopper::wgmma_commit();
  }

  __device__ void start_dq(float (&dq)[kOut], unsigned (&weights)[T::kKeys / 16][4], unsigned k, int add) {
    hopper::pin(dq);
    hopper::pin(weights);
    hopper::wgmma_fence();
#pragma unroll
    for (int i = 0; i < T::kKeys / 16; ++i) {
      hopper::Wgmma<T::kDim>::template registers<1>(dq, weights[i], T::K::Operand::by_columns(k, i * 16, 0),
                                                    i > 0 ? 1 : add);
    }
    hopper::wgmma_commit();
  }

  // Logits -> probabilities, 0 for hidden keys. True where there may be any.
  __device__ bool probabilities(float (&logits)[kLogits], const float (&lse)[2], int tile) const {
    const float factor = static_cast<float>(f_.args.forward.shape.scale) * kLog2E;
#pragma unroll
    for (int i = 0; i < kLogits; ++i) logits[i] = mma::exp2_approx(fmaf(logits[i], factor, -lse[i / 2 % 2]));
    if ((tile + 1) * T::kKeys <= min(item_->keys, item_->visible + group_ * 64)) return false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int visible =
          f_.args.forward.shape.causal ? min(item_->keys, item_->visible + row_ + 8 * half) : item_->keys;
      const int limit = visible - tile * T::kKeys - lane_ % 4 * 2;
#pragma unroll
      for (int n = 0; n < kLogits / 4; ++n) {
        if (n * 8 >= limit) logits[4 * n + 2 * half] = 0.0F;
        if (n * 8 + 1 >= limit) logits[4 * n + 2 * half + 1] = 0.0F;
      }
    }
    return true;
  }

  const HopperDq& f_;
  DqShared<T>& s_;
  int group_, lane_;
  int row_;                       // of the thread in the block's tile; the other one is 8 below
  const DqItem* item_ = nullptr;  // in shared memory: registers are scarce
  hopper::Ring<T::kStages> ring_;
  hopper::Ring<T::kOwn> own_;
};

template <class T>
__global__ void __launch_bounds__(T::kThreads, 1) hopper_dq_kernel(const __grid_constant__ HopperDq f) {
#ifdef MATVLM_SM90A
  extern __shared__ __align__(1024) unsigned char hopper_shared[];
  auto& shared = *reinterpret_cast<DqShared<T>*>(hopper_shared);
  if (threadIdx.x == 0) {
    if (mma::shared_address(hopper_shared) % 1024 != 0) __trap();  // the swizzles count from there
    constexpr unsigned kWarps = 4 * T::kGroups;
    for (int i = 0; i < T::kStages; ++i) {
      hopper::barrier_init(shared_of(shared.full[i]), 1);
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
    if (threadIdx.x < 32) DqProducer<T>(f, shared).run();
  } else {
    hopper::register_budget_raise<T::kComputeRegisters>();
    DqConsumer<T>(f, shared).run();
  }
#endif
}

template <class T>
void dq_tiles(Context& ctx, const Bf16Backward& args) {
  const Bf16Forward& a = args.forward;
  const AttentionShape& shape = a.shape;
  HopperDq f;
  f.args = args;
  f.work = work_list(ctx, shape, a.ranges, a.ranges.longest_q, T::kQueries, shape.heads,
                     a.ranges.longest_k * shape.head_dim * 4 * shape.kv_heads / shape.heads);
  if (f.work.items() == 0) return;
  f.dq_pairs = aligned_heads(args.dq, args.dq_stride, shape.head_dim, 2);
  f.dq_vectors = aligned_heads(args.dq, args.dq_stride, shape.head_dim, 8);
  f.q = T::Own::maps(a.q, shape, shape.heads, a.tokens, a.q_stride);
  f.grad = T::Own::maps(args.grad_out, shape, shape.heads, a.tokens, args.grad_out_stride);
  f.v = T::V::maps(a.v, shape, shape.kv_heads, a.kv_rows, a.v_stride);
  f.k = head_map(a.k, shape.head_dim, shape.kv_heads, a.kv_rows, a.k_stride, kBlockColumns<T::kDim>, T::kKeys);
  static_assert(sizeof(DqShared<T>) <= kHopperShared);
  launch_hopper(ctx, hopper_dq_kernel<T>, f.work.items(), T::kThreads, sizeof(DqShared<T>), f);
}

template <int kDim>
void dq_hopper(Context& ctx, const Bf16Backward& args) {
  dq_tiles<DqChoice<kDim>>(ctx, args);
}

}  // namespace matvlm::attention_kernels
