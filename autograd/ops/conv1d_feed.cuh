// How the causal convolution gets its inputs: W tokens of each operand (x, in the backward pass dy too) at a time, V
// channels to a thread, loaded when they are asked for, a batch ahead in registers, or batches ahead in shared memory.
#pragma once

#include "autograd/ops/pack.cuh"

namespace matvlm::conv1d_kernels {

// Where the next tokens are, and how many are left; tokens past the last one read as zeros.
template <class E, int kOperands>
struct FeedSource {
  const E* rows[kOperands];
  int strides[kOperands];  // 32 bits: an address is one instruction
  int left;
  __device__ const E* at(int operand, int token) const {
    return rows[operand] + static_cast<int64_t>(token) * strides[operand];
  }
  __device__ void advance(int count) {
#pragma unroll
    for (int o = 0; o < kOperands; ++o) rows[o] = at(o, count);
    left -= count;
  }
};

template <class E, int V, int W, int kOperands>
struct FeedBatch {
  Pack<E, V> of[kOperands][W];

  __device__ void load(const FeedSource<E, kOperands>& from) {
    if (from.left >= W) {
      load_rows<true>(from);
    } else {
      load_rows<false>(from);
    }
  }

 private:
  template <bool kFull>
  __device__ void load_rows(const FeedSource<E, kOperands>& from) {
#pragma unroll
    for (int o = 0; o < kOperands; ++o) {
#pragma unroll
      for (int i = 0; i < W; ++i) of[o][i] = Pack<E, V>::load_if(kFull || i < from.left, from.at(o, i));
    }
  }
};

template <class E, int V, int W, int kOperands>
struct RegisterFeed {
  using Batch = FeedBatch<E, V, W, kOperands>;
  struct Shared {};
  FeedSource<E, kOperands> source;

  __device__ RegisterFeed(Shared&, int) {}
  __device__ void start(const FeedSource<E, kOperands>& from) { source = from; }
  __device__ Batch take() {
    Batch batch;
    batch.load(source);
    source.advance(W);
    return batch;
  }
};

template <class E, int V, int W, int kOperands>
struct AheadFeed {
  using Batch = FeedBatch<E, V, W, kOperands>;
  struct Shared {};
  FeedSource<E, kOperands> source;
  Batch ahead;

  __device__ AheadFeed(Shared&, int) {}
  __device__ void start(const FeedSource<E, kOperands>& from) {
    source = from;
    ahead.load(source);
    source.advance(W);
  }
  __device__ Batch take() {
    const Batch batch = ahead;
    ahead.load(source);
    source.advance(W);
    return batch;
  }
};

// A ring of kStages batches in shared memory, all but one of them under way. Every thread reads only what it copied
// itself, so that nothing has to be synchronised between threads.
template <class E, int V, int W, int kOperands, int kStages>
struct StagedFeed {
  static_assert(kStages >= 2);
  using Batch = FeedBatch<E, V, W, kOperands>;
  static constexpr int kLanes = 32;
  struct Shared {  // of a warp
    alignas(16) Pack<E, V> slots[kStages][kOperands][W][kLanes];
  };
  Shared& shared;
  int lane;
  FeedSource<E, kOperands> source;
  int oldest = 0;

  __device__ StagedFeed(Shared& of_warp, int lane_of_warp) : shared(of_warp), lane(lane_of_warp) {}
  __device__ void start(const FeedSource<E, kOperands>& from) {
    mma::copy_async_wait<0>();  // what was asked for too much before
    source = from;
    oldest = 0;
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) fill(s);
  }
  __device__ Batch take() {
    mma::copy_async_wait<kStages - 2>();
    Batch batch;
#pragma unroll
    for (int o = 0; o < kOperands; ++o) {
#pragma unroll
      for (int i = 0; i < W; ++i) batch.of[o][i] = shared.slots[oldest][o][i][lane];
    }
    fill(oldest == 0 ? kStages - 1 : oldest - 1);  // the batch that was taken last
    oldest = oldest == kStages - 1 ? 0 : oldest + 1;
    return batch;
  }

 private:
  __device__ void fill(int stage) {
    if (source.left >= W) {
      fill_rows<true>(stage);
    } else {
      fill_rows<false>(stage);
    }
    mma::copy_async_commit();
    source.advance(W);
  }
  template <bool kFull>
  __device__ void fill_rows(int stage) {
#pragma unroll
    for (int o = 0; o < kOperands; ++o) {
#pragma unroll
      for (int i = 0; i < W; ++i) {
        Pack<E, V>::copy_async(&shared.slots[stage][o][i][lane], source.at(o, i), kFull || i < source.left);
      }
    }
  }
};

// kStages 0: when they are asked for; 1: a batch ahead in registers; else so many batches in shared memory.
template <class E, int V, int W, int kOperands, int kStages>
struct FeedChoice {
  using Type = StagedFeed<E, V, W, kOperands, kStages>;
};
template <class E, int V, int W, int kOperands>
struct FeedChoice<E, V, W, kOperands, 0> {
  using Type = RegisterFeed<E, V, W, kOperands>;
};
template <class E, int V, int W, int kOperands>
struct FeedChoice<E, V, W, kOperands, 1> {
  using Type = AheadFeed<E, V, W, kOperands>;
};
template <class E, int V, int W, int kOperands, int kStages>
using FeedOf = typename FeedChoice<E, V, W, kOperands, kStages>::Type;

}  // namespace matvlm::conv1d_kernels
