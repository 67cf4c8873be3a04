// What the sm_90a attention kernels share: shapes of tiles for a head width, the list of work, its distribution.
#pragma once

#include <cmath>
#include <limits>

#include "autograd/ops/attention_device.h"
#include "autograd/ops/attention_mma.cuh"
#include "autograd/ops/hopper.cuh"
#include "autograd/ops/tensor_map.cuh"

namespace matvlm::attention_kernels {

// Columns of a block of a tile (see hopper.cuh). Products with v need all of its columns in one operand with one stride
// between blocks. A width of 80 is two blocks of 64 of which the second is mostly outside the head: its zeros take
// room, but a row is then fetched in two pieces, where blocks of 16 would take five (and P 72 would split most of them
// between two sectors of memory).
template <int kDim>
constexpr int kBlockColumns = kDim == 96 ? 32 : 64;

template <int kDim, int kRows, int kColumns = kBlockColumns<kDim>>
struct TileOf {
  static constexpr int kWidth = 2 * kColumns;
  static constexpr int kBlocks = (kDim + kColumns - 1) / kColumns;
  static constexpr unsigned kBytes = kBlocks * kRows * kWidth;
  static_assert(kRows % 8 == 0);  // so that every block starts a period of the swizzle, 8 rows
  using Operand = hopper::Operand<kRows, kWidth>;

  // All rows from `row` of one head into the tile at `to`.
  static __device__ void copy(unsigned to, const CUtensorMap& map, unsigned barrier, int head, int row) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      hopper::copy_box(to + static_cast<unsigned>(block * kRows * kWidth), map, barrier, block * kColumns, head, row);
    }
  }
  // A warp makes the rows from `valid` on zeros. A swizzle permutes within a row only.
  static __device__ void clear(unsigned tile, int valid, int lane) {
    constexpr int kPieces = kWidth / 16;
    for (int block = 0; block < kBlocks; ++block) {
      for (int i = valid * kPieces + lane; i < kRows * kPieces; i += 32) {
        const unsigned address = tile + static_cast<unsigned>(block * kRows * kWidth + i * 16);
        asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(address), "r"(0) : "memory");
      }
    }
  }
};

// A tensor map for each of the two parts of a RowTile.
struct RowMaps {
  CUtensorMap main, tail;
};

// A tile whose columns are summed over only: every product takes 16 of them, so blocks of different widths do. Whole
// blocks of kBlockColumns, then one of 16 where the width has a rest.
template <int kDim, int kRows>
struct RowTile {
  static constexpr int kColumns = kBlockColumns<kDim>;
  static constexpr int kMain = kDim / kColumns * kColumns;
  static constexpr int kTail = kDim - kMain;
  static_assert(kTail == 0 || kTail == 16);
  using Main = TileOf<kMain, kRows, kColumns>;
  using Tail = hopper::Operand<kRows, 32>;
  static constexpr unsigned kCopied = kRows * kDim * 2;
  static constexpr unsigned kBytes =
      (kCopied + 1023) / 1024 * 1024;  // the next tile starts a period of the swizzle too

  static __device__ void copy(unsigned to, const RowMaps& maps, unsigned barrier, int head, int row) {
    Main::copy(to, maps.main, barrier, head, row);
    if constexpr (kTail > 0) hopper::copy_box(to + Main::kBytes, maps.tail, barrier, kMain, head, row);
  }
  static __device__ uint64_t by_rows(unsigned base, int row, int column) {
    if constexpr (kTail > 0) {
      if (column >= kMain) return Tail::by_rows(base + Main::kBytes, row, column - kMain);
    }
    return Main::Operand::by_rows(base, row, column);
  }
  static RowMaps maps(const void* data, const AttentionShape& shape, int64_t heads, int64_t rows, int64_t stride) {
    RowMaps result{};
    result.main = head_map(data, shape.head_dim, heads, rows, stride, kColumns, kRows);
    if (kTail > 0) result.tail = head_map(data, shape.head_dim, heads, rows, stride, 16, kRows);
    return result;
  }
};

template <class T>
__device__ unsigned shared_of(const T& x) {
  return mma::shared_address(&x);
}

// One arrival a warp: its own reads of a buffer are over, those of the other warps may not be.
__device__ inline void release_warp(const uint64_t& barrier, int lane) {
  __syncwarp();
  if (lane == 0) hopper::barrier_arrive(shared_of(barrier));
}

// A tile of sums (d of hopper::Wgmma) rounded to the register operands of the next product.
template <int kCount>
__device__ void round_weights(const float (&x)[kCount], unsigned (&weights)[kCount / 8][4]) {
#pragma unroll
  for (int i = 0; i < kCount / 8; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) weights[i][j] = mma::pack(x[8 * i + 2 * j], x[8 * i + 2 * j + 1]);
  }
}

// Word j of the lane i of four lanes <- word i of its lane j.
__device__ inline void transpose_words(unsigned (&w)[4], int lane) {
#pragma unroll
  for (int step = 1; step <= 2; step *= 2) {
    const bool upper = (lane & step) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((i & step) != 0) continue;
      const unsigned got = __shfl_xor_sync(0xffffffffU, upper ? w[i] : w[i + step], step);
      (upper ? w[i] : w[i + step]) = got;
    }
  }
}

// store_group() of rows whose columns come in aligned pieces of 16 bytes: the four lanes of a row exchange their words,
// so that each stores 8 columns of its own. All lanes of a warp call it.
template <int kDim>
__device__ void store_vectors(const HeadTarget& target, const float (&x)[kDim / 2], float factor, int row, int valid,
                              int p) {
  constexpr int kPieces = kDim / 8;
  static_assert(kPieces % 4 == 0 || kPieces % 4 == 2);
  const int lane = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const bool inside = row + 8 * half < valid;
    bf16* to = target.data + (row + 8 * half) * target.stride;
    const auto word = [&](int n) { return mma::pack(x[4 * n + 2 * half] * factor, x[4 * n + 2 * half + 1] * factor); };
#pragma unroll
    for (int n = 0; n + 4 <= kPieces; n += 4) {
      unsigned w[4] = {word(n), word(n + 1), word(n + 2), word(n + 3)};
      transpose_words(w, lane);
      const int column = (n + lane) * 8;
      if (inside && column < p) *reinterpret_cast<uint4*>(to + column) = make_uint4(w[0], w[1], w[2], w[3]);
    }
    if constexpr (kPieces % 4 == 2) {
      constexpr int kLast = kPieces - 2;
      const bool upper = lane % 2 != 0;
      const unsigned low = word(kLast);
      const unsigned high = word(kLast + 1);
      const unsigned got = __shfl_xor_sync(0xffffffffU, upper ? low : high, 1);
      const int column = (kLast + lane % 2) * 8 + lane / 2 * 4;
      if (inside && column < p) {
        *reinterpret_cast<uint2*>(to + column) = upper ? make_uint2(got, high) : make_uint2(low, got);
      }
    }
  }
}

// A thread's part of a warpgroup's result, times a factor: row `row` and the one 8 below of a tile, where below
// `valid`; columns below p.
template <int kDim>
__device__ void store_group(const HeadTarget& target, const float (&x)[kDim / 2], float factor, int row, int valid,
                            int p) {
  if (target.vectors && !target.accumulate) return store_vectors<kDim>(target, x, factor, row, valid, p);
  const int column = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (row + 8 * half >= valid) continue;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      if (n * 8 + column < p) {
        target.store(row + 8 * half, n * 8 + column, x[4 * n + 2 * half] * factor, x[4 * n + 2 * half + 1] * factor);
      }
    }
  }
}

// Turns a row of a thread's part of dq or dk back to before the rotation of kTurnDims<kDim> dims that q and k have had.
// Both columns of a pair, R/2 apart, lie in one thread, since R/2 is a multiple of the 8 columns that four threads
// share.
template <int kDim>
class TurnBack {
  static constexpr int kPieces = kTurnDims<kDim> / 16;  // of 8 pairs
  static_assert(kPieces * 16 == kTurnDims<kDim>);

 public:
  // row: of the table, kept below `end`. The loads stay where this is called: best before a wait.
  __device__ TurnBack(const RotaryAngles& turned, int64_t row, int64_t end) : on_(kPieces > 0 && turned.dims > 0) {
    if (!on_) return;
    const float* angles = turned.table + min(row, end - 1) * kTurnDims<kDim> + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int n = 0; n < kPieces; ++n) {
      load(cosines_[n], angles + 8 * n);
      load(sines_[n], angles + 8 * (kPieces + n));
    }
  }
  // half: 1 for the row 8 below the thread's first.
  __device__ void apply(float (&x)[kDim / 2], int half) const {
    if (!on_) return;
#pragma unroll
    for (int n = 0; n < kPieces; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& low = x[4 * n + 2 * half + i];
        float& high = x[4 * (n + kPieces) + 2 * half + i];
        const float before = low * cosines_[n][i] + high * sines_[n][i];
        high = high * cosines_[n][i] - low * sines_[n][i];
        low = before;
      }
    }
  }

 private:
  static __device__ void load(float (&to)[2], const float* from) {
    asm volatile("ld.global.nc.v2.f32 {%0, %1}, [%2];" : "=f"(to[0]), "=f"(to[1]) : "l"(from));
  }

  bool on_;
  float cosines_[kPieces > 0 ? kPieces : 1][2], sines_[kPieces > 0 ? kPieces : 1][2];
};

// The list of work: tiles of `tiles` levels of all (sequence, head) pairs. Pairs come in groups whose keys and values
// stay in the L2 cache, and in a group the last level comes first: with causal attention the longest.
struct WorkList {
  int tiles = 0;
  int heads = 0;
  int pairs = 0;  // sequences * heads
  int group = 1;  // pairs of a group
  unsigned* counters = nullptr;

  __host__ __device__ int items() const { return tiles * pairs; }
};

struct WorkItem {
  int tile, head, sequence;
  __device__ WorkItem(const WorkList& list, int item) {
    const int per_group = list.tiles * list.group;
    const int first = item / per_group * list.group;
    const int rest = item % per_group;
    const int width = min(list.group, list.pairs - first);
    const int pair = first + rest % width;
    tile = list.tiles - 1 - rest / width;
    head = pair % list.heads;
    sequence = pair / list.heads;
  }
};

// A block's first item is its own number, further ones come from the counter. Which block does an item does not change
// its result. All lanes of a warp call it.
__device__ inline int next_work(const WorkList& list, int lane) {
  int item = 0;
  if (lane == 0) item = static_cast<int>(gridDim.x + atomicAdd(list.counters, 1U));
  return __shfl_sync(0xffffffffU, item, 0);
}
// After the block's last next_work(), by one thread: the last block resets the counters.
__device__ inline void end_work(const WorkList& list) {
  if (atomicInc(list.counters + 1, gridDim.x - 1) == gridDim.x - 1) list.counters[0] = 0;
}

inline WorkList work_list(Context& ctx, const AttentionShape& shape, const AttentionRanges& r, int64_t longest,
                          int64_t rows, int64_t heads, int64_t bytes_per_pair) {
  constexpr int64_t kCached = 20 << 20;  // of the 50 MB of L2: the other half passes through
  WorkList list;
  const int64_t tiles = (longest + rows - 1) / rows;
  check(r.batch * heads * tiles <= std::numeric_limits<int>::max() / 2, "[attention] on a GPU: found ", r.batch,
        " sequences of up to ", longest, " tokens and ", shape.heads, " heads, expected fewer");
  list.tiles = static_cast<int>(tiles);
  list.heads = static_cast<int>(heads);
  list.pairs = static_cast<int>(r.batch * heads);
  const int64_t group = kCached / (bytes_per_pair > 0 ? bytes_per_pair : 1);
  list.group = static_cast<int>(group < 1 ? 1 : group > list.pairs ? list.pairs : group);
  list.counters = ctx.cuda()->work_counters();
  return list;
}

// What the tile shapes of all kernels say: computing warpgroups of 64 rows each beside one that loads, stages of the
// ring, and the registers of either kind of thread.
template <int kHeadDim, int kWarpgroups, int kRingStages>
struct HopperBlock {
  static constexpr int kDim = kHeadDim;
  static constexpr int kGroups = kWarpgroups;
  static constexpr int kStages = kRingStages;
  static constexpr int kRows = 64 * kGroups;
  static constexpr int kThreads = 128 * (kGroups + 1);
  static constexpr int kComputeRegisters = kGroups == 2 ? 240 : 160;
  static constexpr int kLoadRegisters = kGroups == 2 ? 24 : 32;
};

constexpr int64_t kHopperShared = 227 << 10;  // bytes that a block may have on sm_90

// Launches a persistent kernel of `threads` threads a block.
template <class Args>
void launch_hopper(Context& ctx, void (*kernel)(Args), int64_t items, int threads, int64_t bytes, const Args& args) {
  check(bytes <= ctx.cuda()->max_shared_memory(), "[attention] needs ", bytes,
        " bytes of shared memory a block, the GPU has ", ctx.cuda()->max_shared_memory());
  MATVLM_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  const int64_t blocks = items < ctx.cuda()->multiprocessors() ? items : ctx.cuda()->multiprocessors();
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), static_cast<size_t>(bytes),
           cuda_stream(ctx)>>>(args);
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm::attention_kernels
