// Building blocks of the tensor-core kernels, from sm_80 on: 16x8x16 bf16 products with float32 sums, fragment loads
// from shared memory, asynchronous copies into it.
//
// Fragments of a warp, lane = 4 g + t:
//   A (16 x 16): {a0, a1, a2, a3} = rows g, g+8, g, g+8 at columns 2t, 2t+1 (a0, a1) and 2t+8, 2t+9 (a2, a3)
//   B (16 x 8):  {b0, b1} = rows 2t, 2t+1 and 2t+8, 2t+9 of column g
//   C (16 x 8):  {c0, c1, c2, c3} = row g, columns 2t, 2t+1; row g+8, columns 2t, 2t+1
// So the sums of two neighbouring C tiles, rounded to bf16, are one A fragment.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "core/dtype.h"

namespace matvlm::mma {

__device__ inline unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

// Four 8x8 matrices of bf16; lane i gives the address of row i % 8 of matrix i / 8 (16 bytes, 16-byte aligned).
__device__ inline void ldmatrix(unsigned (&r)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
// The same, each matrix transposed.
__device__ inline void ldmatrix_trans(unsigned (&r)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// c += a b.
__device__ inline void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two floats as bf16, the first in the low half.
__device__ inline unsigned pack(float low, float high) {
  unsigned r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
__device__ inline float low_half(unsigned r) { return __uint_as_float(r << 16); }
__device__ inline float high_half(unsigned r) { return __uint_as_float(r & 0xffff0000U); }

// 2^x; 0 for very negative x.
__device__ inline float exp2_approx(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

// 16 bytes from device memory, past the L1 cache; zeros when !valid (nothing is read then). Both addresses 16-byte
// aligned.
__device__ inline void copy_async_16(unsigned to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
// 4 bytes, both addresses 4-byte aligned.
__device__ inline void copy_async_4(unsigned to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(valid ? 4 : 0) : "memory");
}
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most kPending of this thread's groups are under way.
template <int kPending>
__device__ inline void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// A row-major bf16 matrix in shared memory whose rows are kWidth wide and 8 elements apart from each other more than
// that: for kWidth a multiple of 16 the 8 rows that one ldmatrix phase reads lie in different banks.
template <int kWidth>
struct Tile {
  static_assert(kWidth % 16 == 0);
  static constexpr int kStride = kWidth + 8;
  static constexpr int elements(int rows) { return rows * kStride; }

  unsigned base;  // shared-memory address
  __device__ explicit Tile(const bf16* data) : base(shared_address(data)) {}
  __device__ unsigned at(int row, int column) const {
    return base + static_cast<unsigned>((row * kStride + column) * 2);
  }

  // A fragment of the 16x16 block whose corner is (row, column).
  __device__ void load_a(unsigned (&r)[4], int row, int column, int lane) const {
    ldmatrix(r, at(row + lane % 16, column + lane / 16 * 8));
  }
  // A fragment of the transpose of that block: A[i][k] = tile[row + k][column + i].
  __device__ void load_a_trans(unsigned (&r)[4], int row, int column, int lane) const {
    ldmatrix_trans(r, at(row + lane / 16 * 8 + lane % 8, column + lane / 8 % 2 * 8));
  }
  // B fragments of two 16x8 blocks, B[k][n] = tile[row + n][column + k] for n < 8 (r[0], r[1]) and n < 16 (r[2], r[3]).
  __device__ void load_b(unsigned (&r)[4], int row, int column, int lane) const {
    ldmatrix(r, at(row + lane / 16 * 8 + lane % 8, column + lane / 8 % 2 * 8));
  }
  // The same from B[k][n] = tile[row + k][column + n].
  __device__ void load_b_trans(unsigned (&r)[4], int row, int column, int lane) const {
    ldmatrix_trans(r, at(row + lane % 16, column + lane / 16 * 8));
  }
};

}  // namespace matvlm::mma
