// The chunk kernels of one pair of padded widths, behind function pointers: each pair is a source file of its own that
// CMake generates (MATVLM_SSD_SIZES), so that a build can have few or all of them and compile them in parallel.
#pragma once

#include <cuda_runtime.h>

#include "autograd/ops/ssd_backward_group.cuh"
#include "autograd/ops/ssd_forward_hopper.cuh"
#include "core/cuda_context.h"

namespace matvlm::ssd_chunk {

struct SizeKernels {
  int p = 0, n = 0;                                // padded widths
  int states_columns = 0;                          // of N that a block of the state pass keeps
  int64_t states_shared = 0, backward_shared = 0;  // bytes of shared memory
  int64_t forward_shared = 0;                      // of its smallest form
  // maps: null or, sm_90a only, those of the operands. Grid of `states`: (heads, batch, directions or parts).
  void (*states)(const StatesArgs&, const StatesMaps* maps, dim3 grid, cudaStream_t) = nullptr;
  void (*forward)(const ForwardArgs&, int64_t shared_limit, dim3 grid, cudaStream_t) = nullptr;
  void (*pipeline)(const ForwardArgs&, const ForwardMaps&, dim3 grid, cudaStream_t) = nullptr;  // sm_90a only
  void (*backward)(const BackwardArgs&, const BackwardMaps* maps, bool shared_heads, dim3 grid, cudaStream_t) = nullptr;
  bool (*has_sm90a)(Context&) = nullptr;  // whether the kernels marked so are in this build for this device
};

template <class Kernel, class... Args>
void launch(Kernel kernel, dim3 grid, int threads, int64_t shared, cudaStream_t stream, const Args&... args) {
  MATVLM_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  kernel<<<grid, static_cast<unsigned>(threads), static_cast<size_t>(shared), stream>>>(args...);
  MATVLM_LAUNCH_CHECK();
}

template <int P, int N>
SizeKernels size_kernels() {
  SizeKernels k;
  k.p = P;
  k.n = N;
  k.states_columns = kStatesColumns<N>;
  k.states_shared = sizeof(StatesShared<P, N>);
  k.backward_shared = sizeof(BackwardShared<P, N>);
  k.forward_shared = ForwardForms<P, N>::kSmallestBytes;
  k.states = [](const StatesArgs& args, const StatesMaps* maps, dim3 grid, cudaStream_t stream) {
    constexpr int64_t kBytes = sizeof(StatesShared<P, N>);
    grid.x *= kStatesSplits<N>;
    if (maps != nullptr) return launch(states_kernel<P, N, true>, grid, 2 * P, kBytes, stream, args, *maps);
    launch(states_kernel<P, N, false>, grid, 2 * P, kBytes, stream, args, StatesMaps{});
  };
  k.forward = [](const ForwardArgs& args, int64_t shared_limit, dim3 grid, cudaStream_t stream) {
    using Forms = ForwardForms<P, N>;
    constexpr int kThreads = 128 + 2 * P;
    if (Forms::kLargeBytes <= shared_limit) {
      return launch(forward_kernel<P, N, Forms::kStages, 2>, grid, kThreads, Forms::kLargeBytes, stream, args);
    }
    if constexpr (Forms::kHasSmall) {
      if (Forms::kMediumBytes > shared_limit) {
        return launch(forward_kernel<P, N, 1, 1>, grid, kThreads, Forms::kSmallestBytes, stream, args);
      }
    }
    launch(forward_kernel<P, N, 2, 1>, grid, kThreads, Forms::kMediumBytes, stream, args);
  };
  k.pipeline = [](const ForwardArgs& args, const ForwardMaps& maps, dim3 grid, cudaStream_t stream) {
    using Shared = PipelineShared<P, N>;
    launch(pipeline_kernel<P, N>, grid, Shared::kThreads, sizeof(Shared), stream, args, maps);
  };
  k.backward = [](const BackwardArgs& args, const BackwardMaps* maps, bool shared_heads, dim3 grid,
                  cudaStream_t stream) {
    const BackwardMaps& given = maps != nullptr ? *maps : BackwardMaps{};
    constexpr int64_t kBytes = sizeof(BackwardShared<P, N>);
    if (shared_heads && maps != nullptr && group_applies(args)) {
      launch(backward_group_kernel<P, N>, grid, kHeadThreads, sizeof(GroupShared<P, N>), stream, args, given);
    } else if (shared_heads && maps != nullptr) {
      launch(backward_heads_kernel<P, N, true>, grid, kHeadThreads, kHeadStages<P, N, true> * kBytes, stream, args,
             given);
    } else if (shared_heads) {
      launch(backward_heads_kernel<P, N, false>, grid, kHeadThreads, kHeadStages<P, N, false> * kBytes, stream, args,
             given);
    } else if (maps != nullptr) {
      launch(backward_kernel<P, N, true>, grid, 128, kBytes, stream, args, given);
    } else {
      launch(backward_kernel<P, N, false>, grid, 128, kBytes, stream, args, given);
    }
  };
  k.has_sm90a = [](Context& ctx) {
    // In code for any other target the kernel is empty.
    return ctx.cuda()->kernel_registers(reinterpret_cast<const void*>(&pipeline_kernel<P, N>)) > 32;
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
