// Gated RMSNorm of bf16 rows in groups of P channels, P a multiple of 16 whose half is an odd multiple of 8 (48, 80,
// 112): a group is four lanes, so that no lane of a warp idles and two exchanges make a sum. For gated_rms_norm.cu and
// its benchmark only.
//
// A warp owns 8 groups (a span of channels) and takes tokens of its block's tile in turn. What it reads comes through a
// ring of its own in shared memory, by asynchronous copies of whole 16-byte vectors, several tokens ahead: registers
// bound neither the bytes under way nor the alignment of groups to vectors. No two warps ever wait for each other but
// for the sums of the weight's gradient at the end. Lane q of a group holds chunks 4 k + q of 4 channels: with the
// groups P / 2 words apart, the 16 lanes of one access then lie in different banks.
#pragma once

#include <algorithm>

#include "autograd/ops/column_sums.cuh"
#include "autograd/ops/gated_rms_norm.h"
#include "autograd/ops/pack.cuh"

namespace matvlm::gated_rms_norm_quads {

constexpr int kWarp = 32;
constexpr int kQuad = 4;
constexpr int kGroups = kWarp / kQuad;  // of a warp
constexpr int kChunk = 4;               // channels of one shared-memory access
constexpr int kVector = 8;              // channels of one global access

// One way of running a kernel: warps of a block, tokens in a warp's ring, blocks to leave registers for.
template <int kWarps_, int kStages_, int kBlocks_>
struct Plan {
  static constexpr int kWarps = kWarps_;
  static constexpr int kStages = kStages_;
  static constexpr int kBlocks = kBlocks_;
};

template <int P>
struct Span {
  static_assert(P % (kQuad * kChunk) == 0 && P / 2 % 16 == 8);
  static constexpr int kChunks = P / (kQuad * kChunk);  // of a lane
  static constexpr int kLane = kChunks * kChunk;        // channels of a lane
  static constexpr int kChannels = kGroups * P;
  static constexpr int kVectors = kChannels / kVector;
};

using ChunkPack = Pack<bf16, kChunk>;
using VectorPack = Pack<bf16, kVector>;

template <int P>
using LaneValues = float[Span<P>::kLane];

// Where a warp stands: its span of channels and its tokens.
template <int P>
struct Walk {
  int lane;
  int64_t channel;  // first of the span
  int vectors;      // of the span that exist
  int offset;       // of this lane's first chunk in the span
  bool valid;       // whether this lane's group exists
  int64_t token;    // first of this warp
  int count;        // tokens, kWarps apart

  __device__ Walk(const GatedRmsNormArgs<bf16, float>& a, unsigned columns, int64_t tile_tokens, int warps) {
    lane = static_cast<int>(threadIdx.x);
    const int warp = static_cast<int>(threadIdx.y);
    channel = static_cast<int64_t>(blockIdx.x % columns) * Span<P>::kChannels;
    const auto channels = static_cast<int>(min(static_cast<int64_t>(Span<P>::kChannels), a.channels - channel));
    vectors = channels / kVector;
    offset = lane / kQuad * P + lane % kQuad * kChunk;
    valid = offset < channels;
    const int64_t first = static_cast<int64_t>(blockIdx.x / columns) * tile_tokens;
    const auto tile = static_cast<int>(min(tile_tokens, a.tokens - first));
    token = first + warp;
    count = tile > warp ? (tile - warp + warps - 1) / warps : 0;
  }
};

// The kOperands rows of the tokens to come, in a ring of kStages tokens that belongs to one warp.
template <int P, int kOperands, int kStages, int kWarps>
struct TokenRing {
  static_assert(kStages >= 2);
  static constexpr int kBytes = kStages * kOperands * Span<P>::kChannels * 2;  // of a warp
  bf16* memory;
  const Walk<P>& walk;
  const bf16* from[kOperands];  // this lane's first vector of the token that is copied next
  int64_t step[kOperands];      // to the next token's
  int left;                     // tokens not copied yet
  int stage = kStages - 1;      // of the token that was taken last

  __device__ TokenRing(bf16* of_warp, const Walk<P>& at) : memory(of_warp), walk(at), left(at.count) {}
  __device__ void set(int operand, const bf16* data, int64_t stride) {
    from[operand] = data + walk.token * stride + walk.channel + walk.lane * kVector;
    step[operand] = kWarps * stride;
  }
  __device__ void start() {
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) fill(s);
  }
  // The next token's values: rows of kChannels, one for each operand. The others of the ring are under way meanwhile.
  __device__ bf16* next() {
    mma::copy_async_wait<kStages - 2>();
    __syncwarp();  // every lane's copies of this token are there, and its reads of the last one are done
    fill(stage);
    stage = stage == kStages - 1 ? 0 : stage + 1;
    return memory + stage * kOperands * Span<P>::kChannels;
  }
  __device__ void fill(int into) {
    bf16* to = memory + into * kOperands * Span<P>::kChannels + walk.lane * kVector;
    if (left > 0) {
#pragma unroll
      for (int o = 0; o < kOperands; ++o) {
#pragma unroll
        for (int v = 0; v < Span<P>::kVectors; v += kWarp) {
          // Vectors past the last group's become zeros.
          if (v + kWarp <= Span<P>::kVectors || walk.lane < Span<P>::kVectors - v) {
            mma::copy_async_16(mma::shared_address(to + o * Span<P>::kChannels + v * kVector), from[o] + v * kVector,
                               walk.lane + v < walk.vectors);
          }
        }
        from[o] += step[o];
      }
      --left;
    }
    mma::copy_async_commit();
  }
};

// This lane's channels of a row of the ring.
template <int P>
__device__ void read(const bf16* row, int offset, LaneValues<P>& x) {
#pragma unroll
  for (int k = 0; k < Span<P>::kChunks; ++k) {
    float chunk[kChunk];
    ChunkPack::load(row + offset + k * kQuad * kChunk).unpack(chunk);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) x[k * kChunk + i] = chunk[i];
  }
}

// The same once more. Registers are dear: without `volatile` the compiler keeps what it read first, and spills.
template <int P>
__device__ void read_again(const bf16* row, int offset, LaneValues<P>& x) {
  const unsigned address = mma::shared_address(row + offset);
#pragma unroll
  for (int k = 0; k < Span<P>::kChunks; ++k) {
    ChunkPack packed;
    asm volatile("ld.volatile.shared.v2.b32 {%0, %1}, [%2];"
                 : "=r"(packed.raw.x), "=r"(packed.raw.y)
                 : "r"(address + k * kQuad * kChunk * 2)
                 : "memory");
    float chunk[kChunk];
    packed.unpack(chunk);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) x[k * kChunk + i] = chunk[i];
  }
}

// This lane's channels of a vector over channels in device memory; zeros where its group does not exist.
template <int P>
__device__ void read_weight(const bf16* weight, const Walk<P>& walk, LaneValues<P>& x) {
#pragma unroll
  for (int k = 0; k < Span<P>::kChunks; ++k) {
    float chunk[kChunk];
    ChunkPack::load_if(walk.valid, weight + walk.channel + walk.offset + k * kQuad * kChunk).unpack(chunk);
    keep(chunk);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) x[k * kChunk + i] = chunk[i];
  }
}

// This lane's channels into a row of shared or device memory.
template <int P, bool kShared>
__device__ void write(bf16* row, int offset, const LaneValues<P>& x) {
#pragma unroll
  for (int k = 0; k < Span<P>::kChunks; ++k) {
    float chunk[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) chunk[i] = x[k * kChunk + i];
    const ChunkPack packed = ChunkPack::pack(chunk);
    bf16* to = row + offset + k * kQuad * kChunk;
    if constexpr (kShared) {
      *reinterpret_cast<ChunkPack*>(to) = packed;
    } else {
      packed.store(to);
    }
  }
}

// A row of shared memory to device memory, by whole vectors.
template <int P>
__device__ void copy_out(const bf16* row, const Walk<P>& walk, bf16* to) {
#pragma unroll
  for (int v = 0; v < Span<P>::kVectors; v += kWarp) {
    const int vector = v + walk.lane;
    if (vector < walk.vectors) VectorPack::load(row + vector * kVector).store(to + vector * kVector);
  }
}

// Sum over the lanes of a group: all get the same bits, since the exchange is symmetric.
__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffU, x, 1);
  return x + __shfl_xor_sync(0xffffffffU, x, 2);
}

template <int P, class Plan>
__global__ void __launch_bounds__(kWarp* Plan::kWarps, Plan::kBlocks)
    forward_kernel(GatedRmsNormArgs<bf16, float> a, unsigned columns, int64_t tile_tokens) {
  extern __shared__ uint4 memory[];
  using Ring = TokenRing<P, 2, Plan::kStages, Plan::kWarps>;
  const Walk<P> walk(a, columns, tile_tokens, Plan::kWarps);
  Ring ring(reinterpret_cast<bf16*>(memory) + threadIdx.y * (Ring::kBytes / 2), walk);
  ring.set(0, a.y, a.y_stride);
  ring.set(1, a.z, a.z_stride);
  ring.start();
  LaneValues<P> weight;
  read_weight<P>(a.weight, walk, weight);
  bf16* out = a.out + walk.token * a.out_stride + walk.channel;
  for (int n = 0; n < walk.count; ++n) {
    bf16* row = ring.next();
    LaneValues<P> u;
    float squares = 0.0F;
    {
      LaneValues<P> gate;
      read<P>(row, walk.offset, u);
      read<P>(row + Span<P>::kChannels, walk.offset, gate);
#pragma unroll
      for (int i = 0; i < Span<P>::kLane; ++i) {
        u[i] *= gate[i] * sigmoid_for<bf16>(gate[i]);
        squares = fmaf(u[i], u[i], squares);
      }
    }
    const float r = rsqrtf(fmaf(quad_sum(squares), 1.0F / P, static_cast<float>(a.eps)));
#pragma unroll
    for (int i = 0; i < Span<P>::kLane; ++i) u[i] *= r * weight[i];
    write<P, true>(row, walk.offset, u);
    __syncwarp();
    copy_out<P>(row, walk, out);
    out += Plan::kWarps * a.out_stride;
  }
}

// partial: [tiles, C] for the sums of dout * u * r over a tile, or null when the weight needs no gradient. Gradients of
// y and z are written, not added.
template <int P, class Plan>
__global__ void __launch_bounds__(kWarp* Plan::kWarps, Plan::kBlocks)
    backward_kernel(GatedRmsNormArgs<bf16, float> a, unsigned columns, int64_t tile_tokens, float* partial) {
  extern __shared__ uint4 memory[];
  using Ring = TokenRing<P, 3, Plan::kStages, Plan::kWarps>;
  constexpr int kLane = Span<P>::kLane;
  constexpr int kChannels = Span<P>::kChannels;
  const Walk<P> walk(a, columns, tile_tokens, Plan::kWarps);
  Ring ring(reinterpret_cast<bf16*>(memory) + threadIdx.y * (Ring::kBytes / 2), walk);
  ring.set(0, a.y, a.y_stride);
  ring.set(1, a.z, a.z_stride);
  ring.set(2, a.dout, a.dout_stride);
  ring.start();
  LaneValues<P> weight;
  read_weight<P>(a.weight, walk, weight);
  float dweight[kLane] = {};
  bf16* dy = a.dy == nullptr ? nullptr : a.dy + walk.token * a.dy_stride + walk.channel;
  bf16* dz = a.dz == nullptr ? nullptr : a.dz + walk.token * a.dz_stride + walk.channel;
  for (int n = 0; n < walk.count; ++n) {
    bf16* row = ring.next();
    LaneValues<P> gate;   // z * sigmoid(z)
    LaneValues<P> slope;  // its derivative
    float squares = 0.0F;
    float products = 0.0F;
    {
      LaneValues<P> y, dout;
      read<P>(row, walk.offset, y);
      read<P>(row + kChannels, walk.offset, gate);
      read<P>(row + 2 * kChannels, walk.offset, dout);
#pragma unroll
      for (int i = 0; i < kLane; ++i) {
        const float s = sigmoid_for<bf16>(gate[i]);
        gate[i] *= s;
        slope[i] = fmaf(gate[i], 1.0F - s, s);
        const float u = y[i] * gate[i];
        squares = fmaf(u, u, squares);
        products = fmaf(dout[i] * weight[i], u, products);
      }
    }
    const float r = rsqrtf(fmaf(quad_sum(squares), 1.0F / P, static_cast<float>(a.eps)));
    const float common = r * r * r * quad_sum(products) * (1.0F / P);
    {
      LaneValues<P> y, dout;
      read_again<P>(row, walk.offset, y);
      read_again<P>(row + 2 * kChannels, walk.offset, dout);
#pragma unroll
      for (int i = 0; i < kLane; ++i) {
        const float u = y[i] * gate[i];
        const float scaled = dout[i] * r;
        dweight[i] = fmaf(scaled, u, dweight[i]);
        const float du = fmaf(scaled, weight[i], -common * u);
        gate[i] *= du;
        slope[i] *= du * y[i];
      }
    }
    write<P, true>(row, walk.offset, gate);
    write<P, true>(row + kChannels, walk.offset, slope);
    __syncwarp();
    if (dy != nullptr) {
      copy_out<P>(row, walk, dy);
      dy += Plan::kWarps * a.dy_stride;
    }
    if (dz != nullptr) {
      copy_out<P>(row + kChannels, walk, dz);
      dz += Plan::kWarps * a.dz_stride;
    }
  }
  if (partial == nullptr) return;
  // Sums of the warps, in order. A warp's own sums lie in its own ring, which nobody copies into any more.
  static_assert(Ring::kBytes >= kChannels * 4);
  mma::copy_async_wait<0>();
  __syncwarp();
  auto* sums = reinterpret_cast<float*>(reinterpret_cast<char*>(memory));
  constexpr int kStride = Ring::kBytes / 4;
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    sums[threadIdx.y * kStride + walk.offset + i / kChunk * kQuad * kChunk + i % kChunk] = dweight[i];
  }
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.y) * kWarp + walk.lane;
  for (int c = thread; c < walk.vectors * kVector; c += kWarp * Plan::kWarps) {
    float sum = 0.0F;
#pragma unroll
    for (int w = 0; w < Plan::kWarps; ++w) sum += sums[w * kStride + c];
    partial[blockIdx.x / columns * a.channels + walk.channel + c] = sum;
  }
}

// How a launch cuts the work: one block for each tile of tokens and span of channels.
struct Grid {
  unsigned columns = 0, tiles = 0;
  int64_t tile_tokens = 0;
};

template <int P, class Plan, int kOperands>
constexpr int shared_bytes() {
  return Plan::kWarps * TokenRing<P, kOperands, Plan::kStages, Plan::kWarps>::kBytes;
}

// As many tiles as the device runs at the same time, of equal numbers of tokens for every warp. Depends on the shape
// and on the kind of device alone.
template <int P, class Plan, int kOperands>
Grid grid_of(Context& ctx, const GatedRmsNormArgs<bf16, float>& a) {
  constexpr int kReserved = 1024;  // bytes of shared memory that a block takes besides its own
  const int fit = (ctx.cuda()->max_shared_memory() + kReserved) / (shared_bytes<P, Plan, kOperands>() + kReserved);
  const int64_t resident = int64_t{std::min(fit, Plan::kBlocks)} * ctx.cuda()->multiprocessors();
  Grid grid;
  grid.columns = static_cast<unsigned>((a.channels + Span<P>::kChannels - 1) / Span<P>::kChannels);
  const int64_t tiles = std::max<int64_t>(resident / grid.columns, 1);
  const int64_t turns = (a.tokens + tiles * Plan::kWarps - 1) / (tiles * Plan::kWarps);
  grid.tile_tokens = turns * Plan::kWarps;
  grid.tiles = static_cast<unsigned>((a.tokens + grid.tile_tokens - 1) / grid.tile_tokens);
  return grid;
}

// Whether the device has room for a block.
template <int P, class Plan, int kOperands>
bool fits(Context& ctx) {
  return shared_bytes<P, Plan, kOperands>() <= ctx.cuda()->max_shared_memory();
}

template <int P, class Plan>
void launch_forward(Context& ctx, const GatedRmsNormArgs<bf16, float>& a) {
  constexpr int kShared = shared_bytes<P, Plan, 2>();
  const auto kernel = forward_kernel<P, Plan>;
  MATVLM_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
  const Grid grid = grid_of<P, Plan, 2>(ctx, a);
  kernel<<<grid.tiles * grid.columns, dim3(kWarp, Plan::kWarps), kShared, cuda_stream(ctx)>>>(a, grid.columns,
                                                                                              grid.tile_tokens);
  MATVLM_LAUNCH_CHECK();
}

template <int P, class Plan>
void launch_backward(Context& ctx, const GatedRmsNormArgs<bf16, float>& a) {
  constexpr int kShared = shared_bytes<P, Plan, 3>();
  const auto kernel = backward_kernel<P, Plan>;
  MATVLM_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
  const Grid grid = grid_of<P, Plan, 3>(ctx, a);
  const bool weight = a.dweight != nullptr;
  const Tensor partial = Tensor::empty(ctx, {weight ? int64_t{grid.tiles} : 0, a.channels}, DType::f32);
  kernel<<<grid.tiles * grid.columns, dim3(kWarp, Plan::kWarps), kShared, cuda_stream(ctx)>>>(
      a, grid.columns, grid.tile_tokens, weight ? partial.data<float>() : nullptr);
  MATVLM_LAUNCH_CHECK();
  if (weight) add_column_sums(ctx, partial.data<float>(), grid.tiles, a.channels, a.dweight);
}

}  // namespace matvlm::gated_rms_norm_quads
