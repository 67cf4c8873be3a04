// What the row kernels of head_loss for sm_90 share: a cluster of 8 blocks holds a row of student and teacher logits in
// registers, so that they are read once, and exchanges maxima and sums through distributed shared memory.
#pragma once

#include "autograd/ops/cluster.cuh"
#include "autograd/ops/elementwise.cuh"
#include "autograd/ops/head_loss_row.cuh"
#include "autograd/ops/hopper.cuh"
#include "autograd/ops/pack.cuh"

namespace matvlm::head_cluster {

constexpr int kCluster = 8;
constexpr int kWidth = 4;  // logits of a pack: 16 bytes

// Sums of a row against its largest logit, per block of the cluster.
struct Exchange {
  Softmax student[kCluster];
  Softmax teacher[kCluster];
  double loss[kCluster];
  double mean[kCluster];
};

// A block's range [begin, end) of a row's packs.
struct Range {
  int begin, end;
  __device__ Range(int64_t vocab, int rank) {
    const int packs = static_cast<int>(vocab / kWidth);
    const int share = (packs + kCluster - 1) / kCluster;
    begin = min(packs, rank * share);
    end = min(packs, begin + share);
  }
};

#ifdef MATVLM_SM90A

constexpr unsigned kAll = 0xffffffffU;

using hopper::cluster_arrive;
using hopper::cluster_rank;
using hopper::cluster_sync;
using hopper::cluster_wait;
using hopper::remote_address;
using hopper::store_remote;

__device__ inline void store_remote(unsigned address, const Softmax& x) {
  asm volatile("st.shared::cluster.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(x.max), "r"(x.index), "f"(x.sum),
               "f"(x.sum_tau)
               : "memory");
}

// The larger value with its index, the lower index on ties.
__device__ inline void keep_top(float& max, int32_t& index, float other, int32_t other_index) {
  if (other > max || (other == max && other_index < index)) {
    max = other;
    index = other_index;
  }
}

// The row's softmax from those of the cluster's blocks, the same in every thread. Eight lanes share the work.
__device__ inline Softmax join(const Softmax* parts, float inverse) {
  const Softmax mine = parts[threadIdx.x % kCluster];
  Softmax out = mine;
#pragma unroll
  for (int offset = 1; offset < kCluster; offset *= 2) {
    keep_top(out.max, out.index, __shfl_xor_sync(kAll, out.max, offset), __shfl_xor_sync(kAll, out.index, offset));
  }
  out.sum = mine.sum * rescale(mine.max, out.max, 1.0F);
  out.sum_tau = mine.sum_tau * rescale(mine.max, out.max, inverse);
#pragma unroll
  for (int offset = 1; offset < kCluster; offset *= 2) {
    out.sum += __shfl_xor_sync(kAll, out.sum, offset);
    out.sum_tau += __shfl_xor_sync(kAll, out.sum_tau, offset);
  }
  return out;
}

__device__ inline double in_order(const double* parts) {
  double sum = 0;
#pragma unroll
  for (int i = 0; i < kCluster; ++i) sum += parts[i];
  return sum;
}

#endif  // MATVLM_SM90A

// Threads of a block for which kPacks packs each are a row's share.
template <int kPacks>
int64_t cluster_threads(int64_t vocab) {
  const int64_t share = (vocab / kWidth + kCluster - 1) / kCluster;
  return ((share + kPacks - 1) / kPacks + 31) / 32 * 32;
}

// A cluster a row.
template <class G>
void launch_rows(Context& ctx, void (*kernel)(HeadRows<float, G>), int64_t threads, const HeadRows<float, G>& a) {
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = kCluster;
  cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(a.rows * kCluster));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = cuda_stream(ctx);
  config.attrs = &cluster;
  config.numAttrs = 1;
  MATVLM_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, a));
}

}  // namespace matvlm::head_cluster
