// Sum over a thread block in a fixed order: same inputs, same bits.
#pragma once

namespace matvlm {

// Every thread of a block of kThreads (a multiple of 32) must call; every thread gets the sum.
template <int kThreads>
__device__ inline double block_sum(double x) {
  __shared__ double partial[kThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffU, x, offset);
  __syncthreads();  // a previous sum may still be read
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < kThreads / 32; ++w) total += partial[w];
  return total;
}

}  // namespace matvlm
