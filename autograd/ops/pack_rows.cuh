// Elementwise kernels over a matrix with row strides: each thread takes V neighbouring columns, with one access, of
// rows a grid's height apart, so that no index is divided. For .cu files only.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "autograd/ops/pack.cuh"
#include "core/cuda_context.h"

namespace matvlm {

// Calls f(row, column) for every V columns of the matrix; the launch is launch_packs'.
template <int V, class F>
__device__ void for_each_pack(int64_t rows, int64_t cols, const F& f) {
  const int64_t col = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
  if (col >= cols) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) f(row, col);
}

template <class T, int V>
__device__ void load_pack(float (&x)[V], const T* p) {
  Pack<T, V>::load(p).unpack(x);
}

// p = x, or p += x.
template <class T, int V>
__device__ void store_pack(T* p, float (&x)[V], bool accumulate = false) {
  if (accumulate) {
    float before[V];
    load_pack(before, p);
#pragma unroll
    for (int i = 0; i < V; ++i) x[i] += before[i];
  }
  Pack<T, V>::pack(x).store(p);
}

template <class T>
struct PackedOperand {
  const T* data;
  int64_t stride;
};

// launch(V, grid, threads): V, an integral constant, is 16 bytes where all operands allow that, else 1.
template <class T, class Launch>
void launch_packs(int64_t rows, int64_t cols, std::initializer_list<PackedOperand<T>> operands, const Launch& launch) {
  if (rows == 0 || cols == 0) return;
  constexpr int kWide = kPackWidth<T>;
  const bool wide = cols % kWide == 0 && std::all_of(operands.begin(), operands.end(), [](const PackedOperand<T>& o) {
                      return rows_aligned(o.data, o.stride, kWide);
                    });
  const auto with_width = [&](auto width) {
    const int64_t packs = cols / width();
    const auto threads = static_cast<unsigned>(std::min<int64_t>(256, (packs + 31) / 32 * 32));
    const dim3 grid(static_cast<unsigned>((packs + threads - 1) / threads),
                    static_cast<unsigned>(std::min<int64_t>(rows, 65535)));
    launch(width, grid, threads);
  };
  if (wide) {
    with_width(std::integral_constant<int, kWide>());
  } else {
    with_width(std::integral_constant<int, 1>());
  }
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm
