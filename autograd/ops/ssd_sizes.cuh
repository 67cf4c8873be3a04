// The chunk kernels of one pair of padded widths, behind function pointers, and the list of the pairs of this build
// (MATVLM_SSD_SIZES). CMake generates the list and, for each pair, a source file of its own: they compile in parallel.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/context.h"

namespace matvlm::ssd_chunk {

struct StatesArgs;
struct StatesMaps;
struct ForwardArgs;
struct ForwardMaps;
struct BackwardArgs;
struct BackwardMaps;

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

// All pairs of this build, in increasing order of work. Defined in a generated file.
struct SizeList {
  const SizeKernels* data;
  int count;
};
SizeList all_sizes();

}  // namespace matvlm::ssd_chunk
