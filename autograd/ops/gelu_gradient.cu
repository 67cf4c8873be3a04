// dx = (dy W) gelu'(pre) for sm_90a. Two blocks of a cluster compute tiles of 128 x 256 below each other; each loads
// its own rows of dy and half of the columns of W, which the copy engine delivers to both. In a block one warp loads
// and two warpgroups compute 64 rows each; the loads of the next tile run ahead while they do the elementwise end of
// this one. The tile of pre arrives in shared memory during the products, is replaced by dx where it lies and leaves
// from there.
#include <algorithm>

#include "autograd/ops/cluster.cuh"
#include "autograd/ops/gelu_gradient.h"
#include "autograd/ops/hopper.cuh"
#include "autograd/ops/op_checks.h"
#include "autograd/ops/tensor_map.cuh"
#include "core/cuda_context.h"

namespace matvlm {
namespace {

constexpr int kCluster = 2;
constexpr int kGroups = 2;                                        // computing warpgroups
constexpr int kRows = 64 * kGroups, kColumns = 256, kDepth = 64;  // a tile; one step of its sums
constexpr int kBox = 64;                                          // columns of a block in shared memory, 128 bytes
constexpr int kBoxes = kColumns / kBox;
constexpr int kStages = 4;
constexpr int kThreads = 128 * (kGroups + 1);
constexpr unsigned kBoxBytes = kBox * kBox * 2;

using OperandA = hopper::Operand<kRows, 128>;
using OperandB = hopper::Operand<kDepth, 128>;

struct Product {
  CUtensorMap dy, w;
  const bf16* pre = nullptr;
  bf16* dx = nullptr;
  int64_t pre_stride = 0, dx_stride = 0;
  int rows = 0, columns = 0;
  int row_pairs = 0;  // pairs of tiles below each other
  int items = 0;      // of them, over all columns
  int steps = 0;      // of kDepth
};

struct Shared {
  alignas(1024) unsigned char a[kStages][kRows * kDepth * 2];
  alignas(1024) unsigned char b[kStages][kBoxes * kBoxBytes];
  alignas(8) uint64_t full[kStages], empty[kStages];
};

#ifdef MATVLM_SM90A

__device__ unsigned shared_of(const void* p) { return mma::shared_address(p); }

// One of a cluster's items: neighbours in the list share columns of w, and dy stays in the cache.
struct Item {
  int row, column;  // first ones of this block's tile
  __device__ Item(const Product& p, int number, int rank)
      : row((number % p.row_pairs * kCluster + rank) * kRows), column(number / p.row_pairs * kColumns) {}
};

// An arrival at the barrier of the same address in block `rank`.
__device__ void arrive_at(unsigned barrier) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// copy_box() into the same place of all blocks of the cluster, whose barriers there count the bytes.
__device__ void copy_box_to_all(unsigned to, const CUtensorMap& map, unsigned barrier, int column, int row) {
  constexpr uint16_t kAll = (1 << kCluster) - 1;
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, "
      "%4, %5}], [%2], %6;" ::"r"(to),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(barrier), "r"(column), "r"(0), "r"(row), "h"(kAll)
      : "memory");
}
// gelu_tanh'(x) = s + x s (1 - s) u', s = 1 / (1 + exp(-u)), u = 2 sqrt(2 / pi) (x + 0.044715 x^3).
__device__ float gelu_slope(float x) {
  constexpr float kU = 1.5957691216F, kU3 = 0.0713548163F, kLog2E = 1.44269504F;
  const float square = fminf(x * x, 900.0F);  // beyond, the slope is 0 or 1; NaN stays in x
  float e, s;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(x * fmaf(square, -kU3 * kLog2E, -kU * kLog2E)));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(s) : "f"(1.0F + e));
  return fmaf(x * fmaf(-s, s, s), fmaf(square, 3.0F * kU3, kU), s);
}

__device__ void produce(const Product& p, Shared& shared, int rank, int first, int stride) {
  hopper::Ring<kStages> ring;
  for (int number = first; number < p.items; number += stride) {
    const Item item(p, number, rank);
    for (int step = 0; step < p.steps; ++step) {
      const unsigned full = shared_of(&shared.full[ring.stage]);
      hopper::barrier_wait(shared_of(&shared.empty[ring.stage]), ring.parity ^ 1);
      hopper::barrier_expect(full, sizeof(shared.a[0]) + sizeof(shared.b[0]));
      hopper::copy_box(shared_of(shared.a[ring.stage]), p.dy, full, step * kDepth, 0, item.row);
#pragma unroll
      for (int i = 0; i < kBoxes / kCluster; ++i) {
        const int box = rank * (kBoxes / kCluster) + i;
        copy_box_to_all(shared_of(shared.b[ring.stage]) + static_cast<unsigned>(box) * kBoxBytes, p.w, full,
                        item.column + box * kBox, step * kDepth);
      }
      ring.next();
    }
  }
}

class Consumer {
 public:
  __device__ Consumer(const Product& p, Shared& shared, int rank)
      : p_(p),
        s_(shared),
        rank_(rank),
        group_(hopper::uniform(static_cast<int>(threadIdx.x) / 128) - 1),
        lane_(static_cast<int>(threadIdx.x) % 32),
        warp_(static_cast<int>(threadIdx.x) % 128 / 32) {}

  __device__ void run(int first, int stride) {
    for (int number = first; number < p_.items; number += stride) tile(Item(p_, number, rank_));
  }

 private:
  // A thread's pieces of 8 columns of two rows: piece lane % 4 of every 32 columns.
  static constexpr int kPieces = kColumns / 32;

  // Both blocks of the cluster write to the stage again.
  __device__ void release(unsigned stage) {
    __syncwarp();
    if (lane_ < kCluster) {
      arrive_at(hopper::remote_address(&s_.empty[stage], static_cast<unsigned>(lane_)));
    }
  }

  __device__ void tile(const Item& item) {
    float sums[kColumns / 2];
    unsigned before = 0;
    for (int step = 0; step < p_.steps; ++step) {
      hopper::barrier_wait(shared_of(&s_.full[ring_.stage]), ring_.parity);
      const unsigned a = shared_of(s_.a[ring_.stage]), b = shared_of(s_.b[ring_.stage]);
      hopper::pin(sums);
      hopper::wgmma_fence();
#pragma unroll
      for (int k = 0; k < kDepth; k += 16) {
        hopper::Wgmma<kColumns>::template shared<0, 1>(sums, OperandA::by_rows(a, group_ * 64, k),
                                                       OperandB::by_columns(b, k, 0), step > 0 || k > 0 ? 1 : 0);
      }
      hopper::wgmma_commit();
      if (step > 0) {
        hopper::wgmma_wait<1>();
        hopper::pin(sums);
        release(before);
      }
      before = ring_.stage;
      ring_.next();
    }
    uint4 pre[kPieces][2];
    load(item, pre);  // on its way while the last products run
    hopper::wgmma_wait<0>();
    hopper::pin(sums);
    release(before);
    finish(item, sums, pre);
  }

  // Row of the tile and column of its piece, see mma.cuh for the rows of a fragment.
  __device__ int row_of(const Item& item, int half) const {
    return item.row + group_ * 64 + warp_ * 16 + lane_ / 4 + 8 * half;
  }
  __device__ int column_of(const Item& item, int piece) const { return item.column + 32 * piece + lane_ % 4 * 8; }

  __device__ void load(const Item& item, uint4 (&pre)[kPieces][2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row_of(item, half);
      const bf16* from = p_.pre + row * p_.pre_stride;
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        const int column = column_of(item, piece);
        pre[piece][half] = make_uint4(0, 0, 0, 0);
        if (row < p_.rows && column < p_.columns) pre[piece][half] = *reinterpret_cast<const uint4*>(from + column);
      }
    }
  }

  __device__ void finish(const Item& item, const float (&sums)[kColumns / 2], const uint4 (&pre)[kPieces][2]) const {
    const int lane = lane_ % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row_of(item, half);
      bf16* to = p_.dx + row * p_.dx_stride;
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        const uint4& x = pre[piece][half];
        unsigned words[4] = {x.x, x.y, x.z, x.w};
        hopper::transpose_words(words, lane);  // now those of the fragment
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* sum = sums + 4 * (4 * piece + i) + 2 * half;
          words[i] = mma::pack(sum[0] * gelu_slope(__uint_as_float(words[i] << 16)),
                               sum[1] * gelu_slope(__uint_as_float(words[i] & 0xffff0000U)));
        }
        hopper::transpose_words(words, lane);
        const int column = column_of(item, piece);
        if (row < p_.rows && column < p_.columns) {
          *reinterpret_cast<uint4*>(to + column) = make_uint4(words[0], words[1], words[2], words[3]);
        }
      }
    }
  }

  const Product& p_;
  Shared& s_;
  int rank_, group_, lane_, warp_;
  hopper::Ring<kStages> ring_;
};

#endif  // MATVLM_SM90A

__global__ void __launch_bounds__(kThreads, 1) gelu_gradient_kernel(const __grid_constant__ Product p) {
#ifdef MATVLM_SM90A
  extern __shared__ __align__(1024) unsigned char gelu_gradient_shared[];
  auto& shared = *reinterpret_cast<Shared*>(gelu_gradient_shared);
  if (threadIdx.x == 0) {
    if (mma::shared_address(gelu_gradient_shared) % 1024 != 0) __trap();  // the swizzles count from there
    hopper::prefetch_map(p.dy);
    hopper::prefetch_map(p.w);
    for (int i = 0; i < kStages; ++i) {
      hopper::barrier_init(shared_of(&shared.full[i]), 1);
      hopper::barrier_init(shared_of(&shared.empty[i]), kCluster * kGroups * 4);
    }
    hopper::barrier_init_fence();
  }
  hopper::cluster_sync();  // the other block's barriers are ready, too
  const auto rank = static_cast<int>(hopper::cluster_rank());
  const int first = static_cast<int>(blockIdx.x) / kCluster, stride = static_cast<int>(gridDim.x) / kCluster;
  if (threadIdx.x < 128) {
    hopper::register_budget_lower<24>();
    if (threadIdx.x < 32) {
      if (threadIdx.x == 0) produce(p, shared, rank, first, stride);
      __syncwarp();
    }
  } else {
    hopper::register_budget_raise<240>();
    Consumer(p, shared, rank).run(first, stride);
  }
  hopper::cluster_sync();  // nothing arrives at a block that has ended
#endif
}

bool has_kernel(Context& ctx) { return ctx.cuda() != nullptr && ctx.cuda()->compute_capability() == 90; }

bool fits_map(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0 && t.cols() % 8 == 0 && t.row_stride() % 8 == 0;
}

CUtensorMap matrix_map(const Tensor& t, int box_rows) {
  return head_map(t.raw(), t.cols(), 1, t.rows(), t.row_stride(), kBox, box_rows);
}

}  // namespace

bool gelu_gradient_fits(Context& ctx, const Tensor& dx) {
  if (!has_kernel(ctx)) return false;
  const int64_t tiles = (dx.rows() + kRows - 1) / kRows * ((dx.cols() + kColumns - 1) / kColumns);
  return tiles >= 4 * ctx.cuda()->multiprocessors();
}

bool gelu_gradient_product(Context& ctx, const Tensor& dy, const Tensor& w, const Tensor& pre, const Tensor& dx) {
  constexpr const char* kOp = "gelu_gradient";
  check_shape(kOp, "pre", pre, dx.shape());
  check_shape(kOp, "w", w, {dy.cols(), dx.cols()});
  check(dy.rows() == dx.rows(), "[", kOp, "] dy: found ", dy.rows(), " rows, expected ", dx.rows());
  for (const Tensor* t : {&dy, &w, &pre}) check_dtype(kOp, "operand", *t, dx.dtype());
  if (dx.dtype() != DType::bf16 || !has_kernel(ctx)) return false;
  for (const Tensor* t : {&dy, &w, &pre, &dx}) {
    if (!fits_map(*t)) return false;
  }
  constexpr int64_t kMost = 1 << 30;
  if (dx.numel() == 0 || dy.cols() == 0 || dx.rows() > kMost || dx.cols() > kMost || dy.cols() > kMost) return false;
  Product p;
  p.dy = matrix_map(dy, kRows);
  p.w = matrix_map(w, kDepth);
  p.pre = pre.data<bf16>();
  p.dx = dx.data<bf16>();
  p.pre_stride = pre.row_stride();
  p.dx_stride = dx.row_stride();
  p.rows = static_cast<int>(dx.rows());
  p.columns = static_cast<int>(dx.cols());
  p.row_pairs = static_cast<int>((dx.rows() + kCluster * kRows - 1) / (kCluster * kRows));
  p.items = p.row_pairs * static_cast<int>((dx.cols() + kColumns - 1) / kColumns);
  p.steps = static_cast<int>((dy.cols() + kDepth - 1) / kDepth);
  const int clusters = std::min(p.items, ctx.cuda()->multiprocessors() / kCluster);

  MATVLM_CUDA_CHECK(
      cudaFuncSetAttribute(gelu_gradient_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared)));
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = kCluster;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(clusters * kCluster));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = sizeof(Shared);
  config.stream = cuda_stream(ctx);
  config.attrs = &cluster;
  config.numAttrs = 1;
  MATVLM_CUDA_CHECK(cudaLaunchKernelEx(&config, gelu_gradient_kernel, p));
  return true;
}

}  // namespace matvlm
