// How the backward pass of the causal convolution gets its inputs: W tokens of x and dy at a time, V channels to a
// thread, loaded when they are asked for or batches ahead in shared memory.
#pragma once

#include "autograd/ops/pack.cuh"

namespace matvlm {

// Where the next tokens are, and how many are left; tokens past the last one read as zeros.
template <class E>
struct FeedSource {
  const E *x, *dy;
  int x_stride, dy_stride;  // 32 bits: fewer registers hold multiples of them
  int left;
  __device__ void advance(int count) {
    x += static_cast<int64_t>(count) * x_stride;
    dy += static_cast<int64_t>(count) * dy_stride;
    left -= count;
  }
};

template <class E, int V, int W>
struct FeedBatch {
  Pack<E, V> x[W], dy[W];
  // kFull: there are W tokens.
  template <bool kFull>
  __device__ void load(const FeedSource<E>& from) {
#pragma unroll
    for (int i = 0; i < W; ++i) {
      const bool valid = kFull || i < from.left;
      x[i] = Pack<E, V>::load_if(valid, from.x + static_cast<int64_t>(i) * from.x_stride);
      dy[i] = Pack<E, V>::load_if(valid, from.dy + static_cast<int64_t>(i) * from.dy_stride);
    }
  }
};

template <class E, int V, int W>
struct RegisterFeed {
  struct Shared {};
  FeedSource<E> source;

  __device__ explicit RegisterFeed(Shared&) {}
  __device__ void start(const FeedSource<E>& from) { source = from; }
  // The next batch. kFull: the caller knows that there are W tokens.
  template <bool kFull>
  __device__ FeedBatch<E, V, W> take() {
    FeedBatch<E, V, W> batch;
    batch.template load<kFull>(source);
    source.advance(W);
    return batch;
  }
};

// A ring of kStages batches in shared memory, all but one of them under way. Every thread reads only what it copied
// itself, so that nothing has to be synchronised between threads.
template <class E, int V, int W, int kStages>
struct StagedFeed {
  static_assert(kStages >= 2);
  static constexpr int kLanes = 32;
  struct Shared {  // of a warp
    alignas(16) Pack<E, V> slots[kStages][2][W][kLanes];
  };
  Shared& shared;
  FeedSource<E> source;
  int oldest = 0;

  __device__ explicit StagedFeed(Shared& of_warp) : shared(of_warp) {}
  __device__ void start(const FeedSource<E>& from) {
    mma::copy_async_wait<0>();  // what the sequence before this one asked for too much
    source = from;
    oldest = 0;
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) fill(s);
  }
  template <bool kFull>
  __device__ FeedBatch<E, V, W> take() {
    mma::copy_async_wait<kStages - 2>();
    FeedBatch<E, V, W> batch;
#pragma unroll
    for (int i = 0; i < W; ++i) {
      batch.x[i] = shared.slots[oldest][0][i][threadIdx.x];
      batch.dy[i] = shared.slots[oldest][1][i][threadIdx.x];
    }
    fill(oldest == 0 ? kStages - 1 : oldest - 1);  // the batch that was taken last
    oldest = oldest == kStages - 1 ? 0 : oldest + 1;
    return batch;
  }
  __device__ void fill(int stage) {
#pragma unroll
    for (int i = 0; i < W; ++i) {
      const bool valid = i < source.left;
      Pack<E, V>::copy_async(&shared.slots[stage][0][i][threadIdx.x],
                             source.x + static_cast<int64_t>(i) * source.x_stride, valid);
      Pack<E, V>::copy_async(&shared.slots[stage][1][i][threadIdx.x],
                             source.dy + static_cast<int64_t>(i) * source.dy_stride, valid);
    }
    mma::copy_async_commit();
    source.advance(W);
  }
};

}  // namespace matvlm
