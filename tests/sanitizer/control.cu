// What the compute sanitizer's tools can and cannot see: kernels that hand numbers from one warp to another through
// shared memory, as the pipelines of this project do.
//   control barrier    by block barriers: correct, and the tools have to be silent
//   control mbarrier   by mbarriers, as in ssd_forward_hopper.cuh: correct as well
//   control cluster    from block to block of a cluster, by the cluster's barriers, as in head_loss_cluster.cu: correct
//   control race       not at all: racecheck has to report it
//   control sites      by block barriers that the warps reach at different places of the code: the GPU does what is
//                      meant, but a block's barrier has to be one instruction, and synccheck has to report it
// Exit 0: the numbers are right (not asked of `race`), 1: they are not, 77: built for another GPU.
#include <cstdio>
#include <string_view>

#include "autograd/ops/cluster.cuh"
#include "autograd/ops/hopper.cuh"

namespace matvlm {  // the tools look at kernels with this in their names
namespace {

enum class Way { barrier, mbarrier, cluster, race, sites };

constexpr int kRounds = 16;
[[maybe_unused]] constexpr int kStages = 2;  // unused where the architecture lacks mbarriers of this kind
constexpr int kLanes = 32;
constexpr int kBlocks = 8;  // of the cluster

template <Way kWay>
__global__ void control_kernel(int* sums) {
#ifdef MATVLM_SM90A
  __shared__ int values[kStages][kLanes];
  __shared__ uint64_t full[kStages], empty[kStages];
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const bool writes = threadIdx.x < kLanes;
  const auto address = [](const uint64_t& barrier) { return mma::shared_address(&barrier); };
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      hopper::barrier_init(address(full[i]), 1);
      hopper::barrier_init(address(empty[i]), 1);
    }
    hopper::barrier_init_fence();
  }
  __syncthreads();
  int sum = 0;
  for (int i = 0; i < kRounds; ++i) {
    const int stage = i % kStages;
    const unsigned parity = static_cast<unsigned>(i / kStages) & 1U;
    if (writes) {
      if (kWay == Way::mbarrier) hopper::barrier_wait(address(empty[stage]), parity ^ 1U);
      values[stage][lane] = i * lane;
      __syncwarp();
      if (kWay == Way::mbarrier && lane == 0) hopper::barrier_arrive(address(full[stage]));
      if (kWay == Way::sites) __syncthreads();
    } else if (kWay == Way::sites) {
      __syncthreads();
      sum += values[stage][kLanes - 1 - lane];
    }
    if (kWay == Way::barrier) __syncthreads();
    if (!writes && kWay != Way::sites) {
      if (kWay == Way::mbarrier) hopper::barrier_wait(address(full[stage]), parity);
      sum += values[stage][kLanes - 1 - lane];
      __syncwarp();
      if (kWay == Way::mbarrier && lane == 0) hopper::barrier_arrive(address(empty[stage]));
    }
    if (kWay == Way::barrier || kWay == Way::sites) __syncthreads();
  }
  if (!writes) sums[lane] = sum;
#endif
}

// Every block sends its numbers to all blocks of the cluster, and each adds up what it has been sent.
__global__ void cluster_kernel(int* sums) {
#ifdef MATVLM_SM90A
  __shared__ double values[kBlocks][kLanes];
  const unsigned rank = hopper::cluster_rank();
  const unsigned lane = threadIdx.x;
  hopper::cluster_sync();  // all blocks have started
  for (unsigned to = 0; to < kBlocks; ++to) {
    hopper::store_remote(hopper::remote_address(&values[rank][lane], to), static_cast<double>(rank * lane));
  }
  hopper::cluster_sync();  // all numbers have arrived
  double sum = 0;
  for (int from = 0; from < kBlocks; ++from) sum += values[from][kLanes - 1 - lane];
  sums[rank * kLanes + lane] = static_cast<int>(sum);
#endif
}

cudaError_t launch_cluster(int* sums) {
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = kBlocks;
  cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(kBlocks);
  config.blockDim = dim3(kLanes);
  config.attrs = &cluster;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, cluster_kernel, sums);
}

template <Way kWay>
int run() {
  constexpr int kRows = kWay == Way::cluster ? kBlocks : 1;         // of sums, all alike
  constexpr int kTerms = kWay == Way::cluster ? kBlocks : kRounds;  // of a sum
  int* sums = nullptr;
  int found[kRows * kLanes];
  for (int& x : found) x = -1;
  if (cudaMalloc(&sums, sizeof(found)) != cudaSuccess) return 1;
  cudaMemset(sums, 0xff, sizeof(found));
  cudaError_t status = cudaSuccess;
  if constexpr (kWay == Way::cluster) {
    status = launch_cluster(sums);
  } else {
    control_kernel<kWay><<<1, 2 * kLanes>>>(sums);
  }
  if (status == cudaSuccess) status = cudaMemcpy(found, sums, sizeof(found), cudaMemcpyDeviceToHost);
  cudaFree(sums);
  if (status != cudaSuccess) {
    std::fprintf(stderr, "control: %s\n", cudaGetErrorString(status));
    return 1;
  }
  if (found[0] == -1) return 77;  // an empty kernel: built without sm_90a
  for (int i = 0; i < kRows * kLanes; ++i) {
    const int expected = kTerms * (kTerms - 1) / 2 * (kLanes - 1 - i % kLanes);
    if (kWay != Way::race && found[i] != expected) {
      std::fprintf(stderr, "control: lane %d: found %d, expected %d\n", i, found[i], expected);
      return 1;
    }
  }
  return 0;
}

}  // namespace
}  // namespace matvlm

int main(int argc, char** argv) {
  const std::string_view way = argc == 2 ? argv[1] : "";
  using matvlm::run;
  using matvlm::Way;
  if (way == "barrier") return run<Way::barrier>();
  if (way == "mbarrier") return run<Way::mbarrier>();
  if (way == "cluster") return run<Way::cluster>();
  if (way == "race") return run<Way::race>();
  if (way == "sites") return run<Way::sites>();
  std::fprintf(stderr, "control: found '%s', expected barrier, mbarrier, cluster, race or sites\n",
               argc == 2 ? argv[1] : "");
  return 2;
}
