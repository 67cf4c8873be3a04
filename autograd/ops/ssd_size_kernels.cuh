// How a pair of padded widths fills its SizeKernels.
#pragma once

#include "autograd/ops/ssd_backward_group.cuh"
#include "autograd/ops/ssd_forward_hopper.cuh"
#include "autograd/ops/ssd_sizes.cuh"
#include "core/cuda_context.h"

namespace matvlm::ssd_chunk {

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

}  // namespace matvlm::ssd_chunk
