// Attention forward for sm_90a. A block has one warpgroup that only loads and kGroups that compute, each with 64
// queries of one head; keys and values come in tiles of 128 by bulk tensor copies through two rings. The design is
// FlashAttention-3's (Shah et al. 2024): the products of one warpgroup run while the other does its softmax (named
// barriers give the turns), and within a warpgroup the next logits are under way together with the product with v.
// Key tiles are taken from the last to the first, so that the ones that need a mask come first.
#pragma once

#include "autograd/ops/attention_hopper.cuh"

namespace matvlm::attention_kernels {

// wgmma reads all rows of a tile, also those of the next sequence or of the unused part of a cache: logits there are
// masked, but 0 * NaN is NaN, so the rows of v past the end are cleared (by the producer, in the one tile that has
// any).

struct HopperForward {
  Bf16Forward args;
  WorkList work;
  bool out_pairs, out_vectors;
  CUtensorMap q, k, v;
};

// kGroups computing warpgroups of 64 queries, tiles of kTileKeys keys, rings of kRingStages, blocks of kBlock columns;
// kOrdered: the warpgroups start their products in turns.
template <int kHeadDim, int kWarpgroups, int kTileKeys, int kRingStages, int kBlock = kBlockColumns<kHeadDim>,
          bool kOrdered = true>
struct ForwardTiles : HopperBlock<kHeadDim, kWarpgroups, kRingStages> {
  static constexpr int kKeys = kTileKeys;
  static constexpr int kColumns = kBlock;
  static constexpr bool kTurns = kOrdered;
  static constexpr int kQueries = HopperBlock<kHeadDim, kWarpgroups, kRingStages>::kRows;
  using Q = TileOf<kHeadDim, kQueries, kColumns>;
  using KV = TileOf<kHeadDim, kKeys, kColumns>;
};

// Three warpgroups where their registers (160 a thread) hold a tile of logits, its weights and the output.
template <int kDim>
struct ForwardChoice;
template <>
struct ForwardChoice<64> : ForwardTiles<64, 3, 128, 3> {};
template <>
struct ForwardChoice<80> : ForwardTiles<80, 3, 112, 3> {};
template <>
struct ForwardChoice<96> : ForwardTiles<96, 2, 128, 3> {};
template <>
struct ForwardChoice<128> : ForwardTiles<128, 2, 128, 2> {};

// A tile of queries as the producer hands it on. tiles == 0: no more work.
struct ForwardItem {
  int64_t q_row;  // row of q and out
  int head;
  int rows;     // valid queries, may be more than the tile has
  int keys;     // of the sequence
  int visible;  // keys that the first query sees
  int tiles;    // of keys
};

template <class T>
struct ForwardShared {
  alignas(1024) unsigned char q[T::Q::kBytes];
  alignas(1024) unsigned char k[T::kStages][T::KV::kBytes];
  alignas(1024) unsigned char v[T::kStages][T::KV::kBytes];
  alignas(8) uint64_t k_full[T::kStages], k_empty[T::kStages], v_full[T::kStages], v_empty[T::kStages];
  uint64_t q_full, q_empty, patch;
  ForwardItem item;
};

template <class T>
class ForwardProducer {
 public:
  __device__ ForwardProducer(const HopperForward& f, ForwardShared<T>& shared)
      : f_(f), s_(shared), lane_(static_cast<int>(threadIdx.x) % 32) {}

  __device__ void run() {
    for (int number = static_cast<int>(blockIdx.x); number < f_.work.items(); number = next_) {
      next_ = next_work(f_.work, lane_);
      do_item(WorkItem(f_.work, number));
    }
    put_item({}, 0);
    if (lane_ == 0) end_work(f_.work);
  }

 private:
  __device__ void do_item(const WorkItem& work) {
    const Bf16Forward& a = f_.args;
    const int64_t q_begin = a.ranges.q_begin[work.sequence];
    const int64_t k_begin = a.ranges.k_begin[work.sequence];
    const int queries = static_cast<int>(a.ranges.q_end[work.sequence] - q_begin);
    const int first = work.tile * T::kQueries;
    if (first >= queries) return;
    ForwardItem item;
    item.q_row = q_begin + first;
    item.head = work.head;
    item.rows = queries - first;
    item.keys = static_cast<int>(a.ranges.k_end[work.sequence] - k_begin);
    item.visible = a.shape.causal ? item.keys - queries + first + 1 : item.keys;
    const int seen = min(item.keys, item.visible + min(item.rows, T::kQueries) - 1);
    item.tiles = (seen + T::kKeys - 1) / T::kKeys;
    const int kv_head = work.head / static_cast<int>(a.shape.heads / a.shape.kv_heads);
    const int row = static_cast<int>(k_begin);
    // In the order in which they are used: logits run one tile ahead of the product with v.
    for (int t = item.tiles - 1; t >= 0; --t) {
      load_k(kv_head, row + t * T::kKeys);
      if (t == item.tiles - 1) {
        put_item(item, T::Q::kBytes);
      } else {
        load_v(kv_head, row + (t + 1) * T::kKeys, item.keys - (t + 1) * T::kKeys);
      }
    }
    load_v(kv_head, row, item.keys);
  }

  __device__ void put_item(const ForwardItem& item, unsigned bytes) {
    hopper::barrier_wait(shared_of(s_.q_empty), q_parity_ ^ 1);
    q_parity_ ^= 1;
    if (lane_ == 0) {
      s_.item = item;
      hopper::barrier_expect(shared_of(s_.q_full), bytes);
      if (bytes > 0) {
        T::Q::copy(shared_of(s_.q), f_.q, shared_of(s_.q_full), item.head, static_cast<int>(item.q_row));
      }
    }
    __syncwarp();
  }

  __device__ void load_k(int head, int row) {
    hopper::barrier_wait(shared_of(s_.k_empty[k_.stage]), k_.parity ^ 1);
    if (lane_ == 0) {
      const unsigned barrier = shared_of(s_.k_full[k_.stage]);
      hopper::barrier_expect(barrier, T::KV::kBytes);
      T::KV::copy(shared_of(s_.k[k_.stage]), f_.k, barrier, head, row);
    }
    __syncwarp();
    k_.next();
  }

  __device__ void load_v(int head, int row, int valid) {
    hopper::barrier_wait(shared_of(s_.v_empty[v_.stage]), v_.parity ^ 1);
    const unsigned tile = shared_of(s_.v[v_.stage]);
    const unsigned full = shared_of(s_.v_full[v_.stage]);
    const bool clear = valid < T::kKeys;
    if (lane_ == 0) {
      const unsigned barrier = clear ? shared_of(s_.patch) : full;
      hopper::barrier_expect(barrier, T::KV::kBytes);
      T::KV::copy(tile, f_.v, barrier, head, row);
    }
    __syncwarp();
    if (clear) {
      hopper::barrier_wait(shared_of(s_.patch), patch_parity_);
      patch_parity_ ^= 1;
      T::KV::clear(tile, valid, lane_);
      hopper::async_proxy_fence();
      __syncwarp();
      if (lane_ == 0) hopper::barrier_arrive(full);
    }
    v_.next();
  }

  const HopperForward& f_;
  ForwardShared<T>& s_;
  int lane_;
  int next_ = 0;
  hopper::Ring<T::kStages> k_, v_;
  unsigned q_parity_ = 0;
  unsigned patch_parity_ = 0;
};

template <class T>
class ForwardConsumer {
  static constexpr int kLogits = T::kKeys / 2;  // registers of a tile of logits
  static constexpr int kOut = T::kDim / 2;

 public:
  __device__ ForwardConsumer(const HopperForward& f, ForwardShared<T>& shared)
      : f_(f),
        s_(shared),
        group_(hopper::uniform(static_cast<int>(threadIdx.x) / 128) - 1),
        lane_(static_cast<int>(threadIdx.x) % 32),
        row_(static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane_ / 4),
        factor_(static_cast<float>(f.args.shape.scale) * kLog2E) {}

  __device__ void run() {
    if (group_ == T::kGroups - 1) pass_turn();  // the first turn is group 0's
    for (unsigned parity = 0;; parity ^= 1) {
      hopper::barrier_wait(shared_of(s_.q_full), parity);
      item_ = s_.item;
      if (item_.tiles == 0) break;
      if (group_ * 64 < item_.rows) {
        attend();
      } else {
        skip();
      }
    }
    if (group_ == 0) take_turn();  // the last one that was passed
  }

 private:
  __device__ void take_turn() {
    if constexpr (T::kTurns) hopper::named_sync(1 + static_cast<unsigned>(group_), 256);
  }
  __device__ void pass_turn() {
    if constexpr (T::kTurns) hopper::named_arrive(1 + static_cast<unsigned>((group_ + 1) % T::kGroups), 256);
  }

  // No query of this warpgroup: only the rings and turns move on, in the order of attend(): another warpgroup's turn
  // may wait for a stage that this one has to give up.
  __device__ void skip() {
    skip_tiles(item_.tiles);
    release_warp(s_.q_empty, lane_);
    skip_v();
  }
  // All of the first `count` tiles but v of the last of them.
  __device__ void skip_tiles(int count) {
    for (int i = 0; i < count; ++i) {
      hopper::barrier_wait(shared_of(s_.k_full[k_.stage]), k_.parity);
      take_turn();
      pass_turn();
      release_warp(s_.k_empty[k_.stage], lane_);
      k_.next();
      if (i > 0) skip_v();
    }
  }
  __device__ void skip_v() {
    hopper::barrier_wait(shared_of(s_.v_full[v_.stage]), v_.parity);
    release_warp(s_.v_empty[v_.stage], lane_);
    v_.next();
  }

  __device__ void attend() {
    float logits[kLogits];
    float out[kOut];
    unsigned weights[T::kKeys / 16][4];
    max_[0] = max_[1] = -INFINITY;
    sum_[0] = sum_[1] = 0.0F;
    // Causal: the block's last tiles of keys may be hidden from all of this warpgroup.
    const int first = hopper::uniform(min(item_.tiles - 1, (item_.visible + group_ * 64 + 62) / T::kKeys));
    const int hidden = item_.tiles - 1 - first;
    skip_tiles(hidden);
    hopper::barrier_wait(shared_of(s_.k_full[k_.stage]), k_.parity);
    take_turn();
    start_logits(logits);
    pass_turn();
    if (hidden > 0) skip_v();
    hopper::wgmma_wait<0>();
    hopper::pin(logits);
    release_warp(s_.k_empty[k_.stage], lane_);
    k_.next();
    float shrink[2];
    mask(logits, first);
    softmax(logits, shrink);
    round_weights(logits, weights);
    int add = 0;  // the first product with v starts the sum
    for (int t = first - 1; t >= 0; --t) {
      hopper::barrier_wait(shared_of(s_.k_full[k_.stage]), k_.parity);
      take_turn();
      start_logits(logits);
      hopper::barrier_wait(shared_of(s_.v_full[v_.stage]), v_.parity);
      start_out(out, weights, add);
      pass_turn();
      add = 1;
      hopper::wgmma_wait<1>();
      hopper::pin(logits);
      release_warp(s_.k_empty[k_.stage], lane_);
      k_.next();
      mask(logits, t);
      softmax(logits, shrink);
      hopper::wgmma_wait<0>();
      hopper::pin(out);
      hopper::pin(weights);
      release_warp(s_.v_empty[v_.stage], lane_);
      v_.next();
      // After the first few tiles the maxima seldom change.
      if (__any_sync(0xffffffffU, shrink[0] != 1.0F || shrink[1] != 1.0F)) {
#pragma unroll
        for (int i = 0; i < kOut; ++i) out[i] *= shrink[i / 2 % 2];
      }
      round_weights(logits, weights);
    }
    release_warp(s_.q_empty, lane_);  // all logits are done
    hopper::barrier_wait(shared_of(s_.v_full[v_.stage]), v_.parity);
    start_out(out, weights, add);
    hopper::wgmma_wait<0>();
    hopper::pin(out);
    hopper::pin(weights);
    release_warp(s_.v_empty[v_.stage], lane_);
    v_.next();
    finish(out);
  }

  __device__ void start_logits(float (&logits)[kLogits]) {
    const unsigned q = shared_of(s_.q);
    const unsigned k = shared_of(s_.k[k_.stage]);
    hopper::pin(logits);
    hopper::wgmma_fence();
#pragma unroll
    for (int c = 0; c < T::kDim; c += 16) {
      hopper::Wgmma<T::kKeys>::template shared<0, 0>(logits, T::Q::Operand::by_rows(q, group_ * 64, c),
                                                     T::KV::Operand::by_rows(k, 0, c), c > 0);
    }
    hopper::wgmma_commit();
  }

  __device__ void start_out(float (&out)[kOut], unsigned (&weights)[T::kKeys / 16][4], int add) {
    const unsigned v = shared_of(s_.v[v_.stage]);
    hopper::pin(out);
    hopper::pin(weights);
    hopper::wgmma_fence();
#pragma unroll
    for (int i = 0; i < T::kKeys / 16; ++i) {
      hopper::Wgmma<T::kDim>::template registers<1>(out, weights[i], T::KV::Operand::by_columns(v, i * 16, 0),
                                                    i > 0 ? 1 : add);
    }
    hopper::wgmma_commit();
  }

  // -inf for hidden keys: past the sequence's end, and on the diagonal.
  __device__ void mask(float (&logits)[kLogits], int tile) const {
    if ((tile + 1) * T::kKeys <= min(item_.keys, item_.visible + group_ * 64)) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int visible =
          f_.args.shape.causal ? min(item_.keys, item_.visible + group_ * 64 + row_ + 8 * half) : item_.keys;
      const int limit = visible - tile * T::kKeys - lane_ % 4 * 2;
#pragma unroll
      for (int n = 0; n < kLogits / 4; ++n) {
        if (n * 8 >= limit) logits[4 * n + 2 * half] = -INFINITY;
        if (n * 8 + 1 >= limit) logits[4 * n + 2 * half + 1] = -INFINITY;
      }
    }
  }

  // Logits -> weights relative to the new maximum; shrink: what the sums so far are worth against it.
  __device__ void softmax(float (&logits)[kLogits], float (&shrink)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float m = max_[half];
#pragma unroll
      for (int n = 0; n < kLogits / 4; ++n) m = fmaxf(m, fmaxf(logits[4 * n + 2 * half], logits[4 * n + 2 * half + 1]));
      m = fmaxf(m, __shfl_xor_sync(0xffffffffU, m, 1));
      m = fmaxf(m, __shfl_xor_sync(0xffffffffU, m, 2));
      // A row may have seen no key yet: any finite number does as its maximum then.
      const float offset = m == -INFINITY ? 0.0F : m * factor_;
      shrink[half] = mma::exp2_approx(fmaf(max_[half], factor_, -offset));
      max_[half] = m;
      float sum = 0.0F;
#pragma unroll
      for (int n = 0; n < kLogits / 4; ++n) {
#pragma unroll
        for (int e = 4 * n + 2 * half; e < 4 * n + 2 * half + 2; ++e) {
          logits[e] = mma::exp2_approx(fmaf(logits[e], factor_, -offset));
          sum += logits[e];
        }
      }
      sum_[half] = fmaf(sum_[half], shrink[half], sum);
    }
  }

  __device__ void finish(float (&out)[kOut]) {
    const Bf16Forward& a = f_.args;
    const int p = static_cast<int>(a.shape.head_dim);
    const HeadTarget target{a.out + item_.q_row * a.out_stride + item_.head * p, a.out_stride, f_.out_pairs, false,
                            f_.out_vectors};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = sum_[half];
      sum += __shfl_xor_sync(0xffffffffU, sum, 1);
      sum += __shfl_xor_sync(0xffffffffU, sum, 2);
      const int row = group_ * 64 + row_ + 8 * half;
      if (a.lse != nullptr && lane_ % 4 == 0 && row < item_.rows) {
        a.lse[item_.head * a.tokens + item_.q_row + row] = max_[half] * static_cast<float>(a.shape.scale) + logf(sum);
      }
      const float inverse = 1.0F / sum;
#pragma unroll
      for (int n = 0; n < kOut / 4; ++n) {
        out[4 * n + 2 * half] *= inverse;
        out[4 * n + 2 * half + 1] *= inverse;
      }
    }
    store_group<T::kDim>(target, out, 1.0F, group_ * 64 + row_, item_.rows, p);
  }

  const HopperForward& f_;
  ForwardShared<T>& s_;
  int group_, lane_;
  int row_;  // of the thread in its warpgroup's tile; the other one is 8 below
  float factor_;
  float max_[2], sum_[2];
  ForwardItem item_;
  hopper::Ring<T::kStages> k_, v_;
};

template <class T>
__global__ void __launch_bounds__(T::kThreads, 1) hopper_forward_kernel(const __grid_constant__ HopperForward f) {
#ifdef MATVLM_SM90A
  extern __shared__ __align__(1024) unsigned char hopper_shared[];
  auto& shared = *reinterpret_cast<ForwardShared<T>*>(hopper_shared);
  if (threadIdx.x == 0) {
    if (mma::shared_address(hopper_shared) % 1024 != 0) __trap();  // the swizzles count from there
    hopper::prefetch_map(f.q);
    hopper::prefetch_map(f.k);
    hopper::prefetch_map(f.v);
    constexpr unsigned kWarps = 4 * T::kGroups;
    for (int i = 0; i < T::kStages; ++i) {
      hopper::barrier_init(shared_of(shared.k_full[i]), 1);
      hopper::barrier_init(shared_of(shared.v_full[i]), 1);
      hopper::barrier_init(shared_of(shared.k_empty[i]), kWarps);
      hopper::barrier_init(shared_of(shared.v_empty[i]), kWarps);
    }
    hopper::barrier_init(shared_of(shared.q_full), 1);
    hopper::barrier_init(shared_of(shared.q_empty), kWarps);
    hopper::barrier_init(shared_of(shared.patch), 1);
    hopper::barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    hopper::register_budget_lower<T::kLoadRegisters>();
    if (threadIdx.x < 32) ForwardProducer<T>(f, shared).run();
  } else {
    hopper::register_budget_raise<T::kComputeRegisters>();
    ForwardConsumer<T>(f, shared).run();
  }
#endif
}

template <class T>
void forward_tiles(Context& ctx, const Bf16Forward& args) {
  const AttentionShape& shape = args.shape;
  const AttentionRanges& r = args.ranges;
  HopperForward f;
  f.args = args;
  f.work = work_list(ctx, shape, r, r.longest_q, T::kQueries, shape.heads,
                     r.longest_k * shape.head_dim * 4 * shape.kv_heads / shape.heads);
  if (f.work.items() == 0) return;
  f.out_pairs = aligned_heads(args.out, args.out_stride, shape.head_dim, 2);
  f.out_vectors = aligned_heads(args.out, args.out_stride, shape.head_dim, 8);
  f.q = head_map(args.q, shape.head_dim, shape.heads, args.tokens, args.q_stride, T::kColumns, T::kQueries);
  f.k = head_map(args.k, shape.head_dim, shape.kv_heads, args.kv_rows, args.k_stride, T::kColumns, T::kKeys);
  f.v = head_map(args.v, shape.head_dim, shape.kv_heads, args.kv_rows, args.v_stride, T::kColumns, T::kKeys);
  static_assert(sizeof(ForwardShared<T>) <= kHopperShared);
  launch_hopper(ctx, hopper_forward_kernel<T>, f.work.items(), T::kThreads, sizeof(ForwardShared<T>), f);
}

template <int kDim>
void forward_hopper(Context& ctx, const Bf16Forward& args) {
  forward_tiles<ForwardChoice<kDim>>(ctx, args);
}

}  // namespace matvlm::attention_kernels
