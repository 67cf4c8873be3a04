// What the mma.sync attention kernels share: tiles of 64 rows (16 per warp, 4 warps) in shared memory, their loads,
// masks and stores. Columns past the head width P are zeros up to kDim, the width rounded up.
#pragma once

#include "autograd/ops/attention_device.h"
#include "autograd/ops/attention_tiles.cuh"
#include "autograd/ops/mma.cuh"

namespace matvlm::attention_kernels {

constexpr int kMmaThreads = 128;
constexpr int kMmaRows = 64;  // rows of a block's own tile: 16 per warp
constexpr float kLog2E = 1.4426950408889634F;
constexpr float kLn2 = 0.6931471805599453F;

// Columns of one head in a wider row-major matrix.
struct HeadRows {
  const bf16* data;  // row 0
  int64_t stride;
  bool vectors;  // rows start at multiples of 16 bytes and P is a multiple of 8

  __device__ HeadRows from(int64_t row) const { return {data + row * stride, stride, vectors}; }
};

// Can 16-byte (8-element) or 4-byte (2-element) accesses be used on the heads of this operand?
inline bool aligned_heads(const void* data, int64_t stride, int64_t head_dim, int64_t elements) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(2 * elements) == 0 && stride % elements == 0 &&
         head_dim % elements == 0;
}

// kRows rows into a tile, by kCount threads of which the caller is number `thread`; rows from `valid` on and columns
// from p on become 0. The caller commits the copies and waits for them, then for those threads: the scalar path stores
// directly.
template <int kRows, int kDim, int kCount = kMmaThreads>
__device__ void load_rows(bf16* tile, const HeadRows& src, int64_t valid, int p,
                          int thread = static_cast<int>(threadIdx.x)) {
  using Tile = mma::Tile<kDim>;
  if (src.vectors) {
    constexpr int kChunks = kDim / 8;
    const unsigned base = mma::shared_address(tile);
#pragma unroll
    for (int i = thread; i < kRows * kChunks; i += kCount) {
      const int row = i / kChunks;
      const int column = i % kChunks * 8;
      const bool inside = row < valid && column < p;
      const bf16* from = inside ? src.data + row * src.stride + column : src.data;
      mma::copy_async_16(base + static_cast<unsigned>((row * Tile::kStride + column) * 2), from, inside);
    }
    return;
  }
#pragma unroll 4
  for (int i = thread; i < kRows * kDim; i += kCount) {
    const int row = i / kDim;
    const int column = i % kDim;
    bf16 value(0.0F);
    if (row < valid && column < p) value = src.data[row * src.stride + column];
    tile[row * Tile::kStride + column] = value;
  }
}

// c (16 x kColumns per warp) += a (rows of the warp) b^T, for a tile a whose fragments are `a` and b's rows.
template <int kDim, int kColumns>
__device__ void multiply_rows(float (&c)[kColumns / 8][4], const unsigned (&a)[kDim / 16][4], const mma::Tile<kDim>& b,
                              int lane) {
#pragma unroll
  for (int j = 0; j < kColumns; j += 16) {
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      unsigned r[4];
      b.load_b(r, j, k * 16, lane);
      mma::multiply_add(c[j / 8], a[k], r[0], r[1]);
      mma::multiply_add(c[j / 8 + 1], a[k], r[2], r[3]);
    }
  }
}

// The same with a's fragments read from its tile again: fewer registers.
template <int kDim, int kColumns>
__device__ void multiply_rows(float (&c)[kColumns / 8][4], const mma::Tile<kDim>& a, int row, const mma::Tile<kDim>& b,
                              int lane) {
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    unsigned x[4];
    a.load_a(x, row, k * 16, lane);
#pragma unroll
    for (int j = 0; j < kColumns; j += 16) {
      unsigned r[4];
      b.load_b(r, j, k * 16, lane);
      mma::multiply_add(c[j / 8], x, r[0], r[1]);
      mma::multiply_add(c[j / 8 + 1], x, r[2], r[3]);
    }
  }
}

// c (16 x kDim per warp) += w b, for weights w (16 x kInner) rounded to bf16 and b's kInner rows.
template <int kDim, int kInner>
__device__ void multiply_weights(float (&c)[kDim / 8][4], const float (&w)[kInner / 8][4], const mma::Tile<kDim>& b,
                                 int lane) {
#pragma unroll
  for (int k = 0; k < kInner / 16; ++k) {
    const float(&low)[4] = w[2 * k];
    const float(&high)[4] = w[2 * k + 1];
    const unsigned a[4] = {mma::pack(low[0], low[1]), mma::pack(low[2], low[3]), mma::pack(high[0], high[1]),
                           mma::pack(high[2], high[3])};
#pragma unroll
    for (int n = 0; n < kDim; n += 16) {
      unsigned r[4];
      b.load_b_trans(r, k * 16, n, lane);
      mma::multiply_add(c[n / 8], a, r[0], r[1]);
      mma::multiply_add(c[n / 8 + 1], a, r[2], r[3]);
    }
  }
}

// Where a result goes: columns of one head.
struct HeadTarget {
  bf16* data;  // row 0 of the tile
  int64_t stride;
  bool pairs;  // 4-byte accesses are aligned
  bool accumulate;
  bool vectors = false;  // and so are 16-byte accesses to 8 columns

  // Two neighbouring columns of a row.
  __device__ void store(int64_t row, int column, float x, float y) const {
    bf16* at = data + row * stride + column;
    if (pairs) {
      auto* word = reinterpret_cast<unsigned*>(at);
      if (accumulate) {
        const unsigned old = *word;
        x += mma::low_half(old);
        y += mma::high_half(old);
      }
      *word = mma::pack(x, y);
      return;
    }
    if (accumulate) {
      x += static_cast<float>(at[0]);
      y += static_cast<float>(at[1]);
    }
    at[0] = bf16(x);
    at[1] = bf16(y);
  }
};

// A warp's 16 x kDim sums, each row times its factor; rows from `valid` on and columns from p on are left out.
template <int kDim>
__device__ void store_rows(const HeadTarget& target, const float (&c)[kDim / 8][4], const float (&factor)[2], int row,
                           int64_t valid, int p) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = row + lane / 4 + half * 8;
    if (r >= valid) continue;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      const int column = n * 8 + lane % 4 * 2;
      if (column < p) target.store(r, column, c[n][2 * half] * factor[half], c[n][2 * half + 1] * factor[half]);
    }
  }
}

// Launches a kernel of kMmaThreads threads that needs `elements` bf16 and `floats` floats of dynamic shared memory.
template <class... Args>
void launch_mma(Context& ctx, void (*kernel)(Args...), dim3 grid, int64_t elements, int64_t floats,
                const std::type_identity_t<Args>&... args) {
  const int64_t bytes = elements * 2 + floats * 4;
  check(bytes <= ctx.cuda()->max_shared_memory(), "[attention] needs ", bytes,
        " bytes of shared memory a block, the GPU has ", ctx.cuda()->max_shared_memory());
  MATVLM_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  kernel<<<grid, kMmaThreads, static_cast<size_t>(bytes), cuda_stream(ctx)>>>(args...);
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm::attention_kernels
