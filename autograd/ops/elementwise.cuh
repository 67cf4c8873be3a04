// What the simple kernels share: loads and stores through float32, ordered reductions over warps and blocks, grids that
// never exceed the device's limits. For .cu files only.
#pragma once

#include <cstdint>

#include "core/cuda_context.h"
#include "core/tensor.h"

namespace matvlm {

__device__ inline float load_float(const float* p) { return *p; }
__device__ inline float load_float(const bf16* p) { return static_cast<float>(*p); }
__device__ inline void store_float(float* p, float x) { *p = x; }
__device__ inline void store_float(bf16* p, float x) { *p = bf16(x); }

// Value to write where a gradient may already be there.
template <class T>
__device__ inline void store_or_add(T* p, float x, bool accumulate) {
  store_float(p, accumulate ? load_float(p) + x : x);
}

// Sum over the block, the same in every thread; a fixed tree, so the same bits every time. blockDim.x is a multiple of
// 32 and at most 1024. Contains two barriers.
template <class T>
__device__ inline T block_sum(T x) {
  __shared__ T partial[32];
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffU, x, offset);
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  __syncthreads();  // the previous call's readers are done
  if (threadIdx.x % 32 == 0) partial[warp] = x;
  __syncthreads();
  T total = 0;
  for (int i = 0; i < warps; ++i) total += partial[i];
  return total;
}

// Blocks for n elements of work at `per_block` each, for kernels that stride over what is left.
inline unsigned grid_for(int64_t n, int64_t per_block) {
  const int64_t blocks = (n + per_block - 1) / per_block;
  return static_cast<unsigned>(blocks < 1 ? 1 : (blocks < (1 << 20) ? blocks : (1 << 20)));
}

}  // namespace matvlm
