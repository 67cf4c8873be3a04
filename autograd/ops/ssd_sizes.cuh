// The chunk kernels of one pair of padded widths, behind function pointers: each pair is a source file of its own that
// CMake generates (MATVLM_SSD_SIZES), so that a build can have few or all of them and compile them in parallel.
#pragma once

#include <cuda_runtime.h>

#include "autograd/ops/ssd_backward.cuh"
#include "autograd/ops/ssd_forward.cuh"
#include "core/cuda_context.h"

namespace matvlm::ssd_chunk {

struct SizeKernels {
  int p = 0, n = 0;                                // padded widths
  int64_t states_shared = 0, backward_shared = 0;  // bytes of shared memory
  int64_t forward_shared_large = 0, forward_shared_small = 0;
  void (*states)(const StatesArgs&, dim3 grid, cudaStream_t) = nullptr;
  void (*forward)(const ForwardArgs&, bool large, dim3 grid, cudaStream_t) = nullptr;
  void (*backward)(const BackwardArgs&, bool shared_heads, dim3 grid, cudaStream_t) = nullptr;
};

template <class Kernel, class Args>
void launch(Kernel kernel, const Args& args, dim3 grid, int threads, int64_t shared, cudaStream_t stream) {
  MATVLM_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  kernel<<<grid, static_cast<unsigned>(threads), static_cast<size_t>(shared), stream>>>(args);
  MATVLM_LAUNCH_CHECK();
}

template <int P, int N>
SizeKernels size_kernels() {
  SizeKernels k;
  k.p = P;
  k.n = N;
  k.states_shared = sizeof(StatesShared<P, N>);
  k.backward_shared = sizeof(BackwardShared<P, N>);
  k.forward_shared_large = sizeof(ForwardShared<P, N, true>);
  k.forward_shared_small = sizeof(ForwardShared<P, N, false>);
  k.states = [](const StatesArgs& args, dim3 grid, cudaStream_t stream) {
    launch(states_kernel<P, N>, args, grid, 2 * P, sizeof(StatesShared<P, N>), stream);
  };
  k.forward = [](const ForwardArgs& args, bool large, dim3 grid, cudaStream_t stream) {
    if (large)
      return launch(forward_kernel<P, N, true>, args, grid, 128 + 2 * P, sizeof(ForwardShared<P, N, true>), stream);
    launch(forward_kernel<P, N, false>, args, grid, 128 + 2 * P, sizeof(ForwardShared<P, N, false>), stream);
  };
  k.backward = [](const BackwardArgs& args, bool shared_heads, dim3 grid, cudaStream_t stream) {
    constexpr int64_t kBytes = sizeof(BackwardShared<P, N>);
    if (shared_heads) return launch(backward_kernel<P, N, true>, args, grid, 128, kBytes, stream);
    launch(backward_kernel<P, N, false>, args, grid, 128, kBytes, stream);
  };
  return k;
}

// All pairs of this build, in increasing order of work. Defined in a generated file.
struct SizeList {
  const SizeKernels* data;
  int count;
};
SizeList all_sizes();

}  // namespace matvlm::ssd_chunk
