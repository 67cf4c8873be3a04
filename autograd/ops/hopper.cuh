// Building blocks of sm_90a kernels: mbarriers, bulk tensor copies, named barriers, warpgroup products (wgmma).
// Nothing here may be called in code compiled for another target: guard kernel bodies with MATVLM_SM90A.
//
// Operands of wgmma in shared memory are blocks of columns, each kRows rows of kWidth bytes (32, 64 or 128) as a bulk
// tensor copy with the swizzle of that width leaves them: the 16-byte pieces of a row are permuted by row / (128 /
// kWidth), so that the same piece of 8 neighbouring rows lies in different banks. A block starts at a multiple of
// 8 kWidth bytes (the swizzle's period), and so does any 8-row group in it.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "autograd/ops/mma.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define MATVLM_SM90A 1
#endif

namespace matvlm::hopper {

// ---- mbarriers: a phase ends when all arrivals and all announced bytes are there ----

__device__ inline void barrier_init(unsigned barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes initialised barriers visible to the copy engine; before the block's first __syncthreads().
__device__ inline void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ inline void barrier_arrive(unsigned barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives and announces bytes that copies will bring.
__device__ inline void barrier_expect(unsigned barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Until the phase of that parity is over. On a fresh barrier parity 1 counts as over.
__device__ inline void barrier_wait(unsigned barrier, unsigned parity) {
  unsigned done = 0;
  while (done == 0) {
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
  }
}

// A place in a ring of kStages buffers, and the parity of its turn.
template <int kStages>
struct Ring {
  unsigned stage = 0;
  unsigned parity = 0;
  __device__ void next() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// ---- named barriers (1 to 15; 0 is __syncthreads) ----

__device__ inline void named_sync(unsigned id, unsigned threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline void named_arrive(unsigned id, unsigned threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- bulk tensor copies ----

__device__ inline void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(&map)) : "memory");
}
// A box of the map at (column, head, row); elements outside the tensor arrive as zeros and count as bytes.
__device__ inline void copy_box(unsigned to, const CUtensorMap& map, unsigned barrier, int column, int head, int row) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::
          "r"(to),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(barrier), "r"(column), "r"(head), "r"(row)
      : "memory");
}
// `bytes` in a row, a multiple of 16; both addresses are, too.
__device__ inline void copy_bulk(unsigned to, const void* from, unsigned bytes, unsigned barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}
// Orders this thread's ordinary accesses to shared memory before later ones by the copy engine and wgmma.
__device__ inline void async_proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- registers ----

template <int kCount>
__device__ inline void register_budget_raise() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ inline void register_budget_lower() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

// The first lane's value: tells the compiler that the warp's threads agree, so that what follows from it (addresses of
// operands) can live in uniform registers.
__device__ inline int uniform(int x) { return __shfl_sync(0xffffffffU, x, 0); }

// ---- wgmma ----

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// The compiler does not know that products run on after the instruction: this keeps it from moving accesses to their
// registers across the place where it stands.
template <int kCount>
__device__ inline void pin(float (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(x[i])::"memory");
}
template <int kCount>
__device__ inline void pin(unsigned (&x)[kCount][4]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) asm volatile("" : "+r"(x[i][j])::"memory");
  }
}

// Where an operand lies. kRows: rows of a column block; kWidth: its bytes a row.
template <int kRows, int kWidth>
struct Operand {
  static_assert(kWidth == 32 || kWidth == 64 || kWidth == 128);
  static constexpr int kColumns = kWidth / 2;  // of a block
  static constexpr int kBlockBytes = kRows * kWidth;
  static constexpr uint64_t kSwizzle = kWidth == 128 ? 1 : kWidth == 64 ? 2 : 3;
  static constexpr uint64_t kGroupStride = 8 * kWidth;  // from 8 rows to the next 8

  // Rows are the M or N index, columns the K index ("K-major"): 16 columns from `column`, rows from `row`, a multiple
  // of 8. Inside a block the address moves by plain bytes: the hardware permutes by address bits. The leading offset
  // means nothing here.
  static __device__ uint64_t by_rows(unsigned base, int row, int column) {
    const unsigned address =
        base + static_cast<unsigned>(column / kColumns * kBlockBytes + row * kWidth + column % kColumns * 2);
    return static_cast<uint64_t>((address & 0x3ffffU) >> 4) | uint64_t{1} << 16 | (kGroupStride >> 4) << 32 |
           kSwizzle << 62;
  }
  // Rows are the K index, columns the M or N index ("MN-major", transposed): 16 rows from `row` (a multiple of 8), all
  // columns from block `block` on. Leading offset: from a block to the next; stride offset: from 8 rows to the next 8.
  static __device__ uint64_t by_columns(unsigned base, int row, int block) {
    const unsigned address = base + static_cast<unsigned>(block * kBlockBytes + row * kWidth);
    return static_cast<uint64_t>((address & 0x3ffffU) >> 4) | static_cast<uint64_t>(kBlockBytes >> 4) << 16 |
           (kGroupStride >> 4) << 32 | kSwizzle << 62;
  }
};

#define MATVLM_D8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define MATVLM_D16 MATVLM_D8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define MATVLM_D24 MATVLM_D16 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define MATVLM_D32 MATVLM_D24 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define MATVLM_D40 MATVLM_D32 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define MATVLM_D48 MATVLM_D40 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define MATVLM_D56 MATVLM_D48 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define MATVLM_D64 MATVLM_D56 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define MATVLM_O8(d, i)                                                                                       \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define MATVLM_O16(d) MATVLM_O8(d, 0), MATVLM_O8(d, 8)
#define MATVLM_O24(d) MATVLM_O16(d), MATVLM_O8(d, 16)
#define MATVLM_O32(d) MATVLM_O16(d), MATVLM_O8(d, 16), MATVLM_O8(d, 24)
#define MATVLM_O40(d) MATVLM_O32(d), MATVLM_O8(d, 32)
#define MATVLM_O48(d) MATVLM_O40(d), MATVLM_O8(d, 40)
#define MATVLM_O56(d) MATVLM_O48(d), MATVLM_O8(d, 48)
#define MATVLM_O64(d) MATVLM_O48(d), MATVLM_O8(d, 48), MATVLM_O8(d, 56)

// d (64 x kN per warpgroup) = a b, plus d where add != 0; 16 columns of a, 16 rows of b. d[4 n + e] of a thread is the
// C fragment of mma.cuh for columns 8 n, rows 16 (warp of the group); a from registers is that header's A fragment.
// kTransA, kTransB: 1 where the descriptor is by_columns.
template <int kN>
struct Wgmma;

#define MATVLM_WGMMA(N, COUNT, I0, I1, I2, I3, I4, I5, I6)                                             \
  template <>                                                                                          \
  struct Wgmma<N> {                                                                                    \
    template <int kTransA, int kTransB>                                                                \
    static __device__ void shared(float (&d)[COUNT], uint64_t a, uint64_t b, int add) {                \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #I2                                            \
                   ", 0;\n"                                                                            \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" MATVLM_D##COUNT        \
                   "}, %" #I0 ", %" #I1 ", p, 1, 1, %" #I3 ", %" #I4 ";\n}"                            \
                   : MATVLM_O##COUNT(d)                                                                \
                   : "l"(a), "l"(b), "r"(add), "n"(kTransA), "n"(kTransB));                            \
    }                                                                                                  \
    template <int kTransB>                                                                             \
    static __device__ void registers(float (&d)[COUNT], const unsigned (&a)[4], uint64_t b, int add) { \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #I5                                            \
                   ", 0;\n"                                                                            \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" MATVLM_D##COUNT        \
                   "}, {%" #I0 ",%" #I1 ",%" #I2 ",%" #I3 "}, %" #I4 ", p, 1, 1, %" #I6 ";\n}"         \
                   : MATVLM_O##COUNT(d)                                                                \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(kTransB));      \
    }                                                                                                  \
  };
MATVLM_WGMMA(32, 16, 16, 17, 18, 19, 20, 21, 22)
MATVLM_WGMMA(48, 24, 24, 25, 26, 27, 28, 29, 30)
MATVLM_WGMMA(64, 32, 32, 33, 34, 35, 36, 37, 38)
MATVLM_WGMMA(80, 40, 40, 41, 42, 43, 44, 45, 46)
MATVLM_WGMMA(96, 48, 48, 49, 50, 51, 52, 53, 54)
MATVLM_WGMMA(112, 56, 56, 57, 58, 59, 60, 61, 62)
MATVLM_WGMMA(128, 64, 64, 65, 66, 67, 68, 69, 70)
#undef MATVLM_WGMMA
#undef MATVLM_D8
#undef MATVLM_D16
#undef MATVLM_D24
#undef MATVLM_D32
#undef MATVLM_D40
#undef MATVLM_D48
#undef MATVLM_D56
#undef MATVLM_D64
#undef MATVLM_O8
#undef MATVLM_O16
#undef MATVLM_O24
#undef MATVLM_O32
#undef MATVLM_O40
#undef MATVLM_O48
#undef MATVLM_O56
#undef MATVLM_O64

}  // namespace matvlm::hopper
