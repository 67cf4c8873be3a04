// Thread block clusters of sm_90: their barrier, and stores into another block's shared memory. Nothing here may be
// called in code compiled for an older target: guard kernel bodies with MATVLM_SM90A.
//
// A store to another block is right between two barriers of the cluster: one that completes before it, so that the
// other block has started, and one that the sender reaches after it and the receiver waits for before it reads or ends.
#pragma once

#include "autograd/ops/mma.cuh"

namespace matvlm::hopper {

// The two halves of the cluster's barrier; every thread of every block takes part, or has exited. What a thread wrote
// before it arrived is seen by those that have waited.
__device__ inline void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
__device__ inline void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

__device__ inline unsigned cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %cluster_ctarank;" : "=r"(rank));
  return rank;
}

// Address of a shared variable of this block in block `rank` of the cluster.
__device__ inline unsigned remote_address(const void* p, unsigned rank) {
  unsigned address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(mma::shared_address(p)), "r"(rank));
  return address;
}

__device__ inline void store_remote(unsigned address, double x) {
  asm volatile("st.shared::cluster.f64 [%0], %1;" ::"r"(address), "d"(x) : "memory");
}

}  // namespace matvlm::hopper
