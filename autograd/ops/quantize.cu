// Conversion to fp8 on the GPU: a row is read once into registers, its largest magnitude found, and written. Rows that
// are too long or not aligned are read twice.
#include "autograd/ops/pack.cuh"
#include "autograd/ops/quantize.h"
#include "core/cuda_context.h"

namespace matvlm {
namespace {

constexpr int kQuantizePacks = 10;  // 16-byte loads of a thread: 80 bf16, so that 2560 columns are one warp's
constexpr int kThreads = 128;       // of a block at least
constexpr int kMaxWarps = 8;        // of a row

__device__ inline unsigned magnitude_bits(float x) { return __float_as_uint(x) & 0x7fffffffU; }

// Two numbers, `low` in the lower byte.
__device__ inline unsigned short to_e4m3(float low, float high) {
#if __CUDA_ARCH__ >= 890
  unsigned short pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return static_cast<unsigned short>(e4m3(low).bits | (e4m3(high).bits << 8));
#endif
}

// The largest value among the kWarps warps of a row; contains a barrier of the block when they are several.
template <int kWarps>
__device__ inline unsigned row_max(unsigned x) {
  x = __reduce_max_sync(0xffffffffU, x);
  if constexpr (kWarps > 1) {
    __shared__ unsigned partial[kMaxWarps];
    const int warp = static_cast<int>(threadIdx.x) / 32;
    if (threadIdx.x % 32 == 0) partial[warp] = x;
    __syncthreads();
    const int first = warp / kWarps * kWarps;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) x = max(x, partial[first + i]);
  }
  return x;
}

template <class E, bool kFactor>
__device__ inline void load_scaled(const Pack<E, kPackWidth<E>>& pack, const float* factor, float (&x)[kPackWidth<E>]) {
  constexpr int kWide = kPackWidth<E>;
  pack.unpack(x);
  if constexpr (kFactor) {
#pragma unroll
    for (int i = 0; i < kWide; i += 4) {
      float f[4];
      Pack<float, 4>::load(factor + i).unpack(f);
#pragma unroll
      for (int j = 0; j < 4; ++j) x[i + j] *= f[j];
    }
  }
}

template <class E>
__device__ inline void store_e4m3(uint8_t* to, const float (&x)[kPackWidth<E>], float inverse) {
  unsigned words[kPackWidth<E> / 4];
#pragma unroll
  for (int i = 0; i < kPackWidth<E> / 4; ++i) {
    const unsigned low = to_e4m3(x[4 * i] * inverse, x[4 * i + 1] * inverse);
    const unsigned high = to_e4m3(x[4 * i + 2] * inverse, x[4 * i + 3] * inverse);
    words[i] = low | (high << 16);
  }
  if constexpr (kPackWidth<E> == 8) {
    *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
  } else {
    *reinterpret_cast<unsigned*>(to) = words[0];
  }
}

// kWarps warps a row.
template <class E, int kWarps, bool kFactor>
__global__ void __launch_bounds__(kWarps * 32 > kThreads ? kWarps * 32 : kThreads)
    quantize_rows_kernel(QuantizeArgs<E> a) {
  constexpr int kWide = kPackWidth<E>;
  constexpr int kGroup = 32 * kWarps;
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kGroup) + threadIdx.x / kGroup;
  const bool valid = row < a.rows;
  const E* x = a.x + row * a.x_stride;
  const auto column = [&](int i) { return static_cast<int64_t>(i * kGroup + lane) * kWide; };
  Pack<E, kWide> packs[kQuantizePacks];
#pragma unroll
  for (int i = 0; i < kQuantizePacks; ++i) {
    packs[i] = Pack<E, kWide>::load_if(valid && column(i) < a.cols, x + column(i));
  }
  unsigned largest = 0;
#pragma unroll
  for (int i = 0; i < kQuantizePacks; ++i) {
    if (column(i) >= a.cols) break;
    float v[kWide];
    load_scaled<E, kFactor>(packs[i], a.factor + column(i), v);
#pragma unroll
    for (int j = 0; j < kWide; ++j) largest = max(largest, magnitude_bits(v[j]));
  }
  const Fp8Scale scale = fp8_scale(row_max<kWarps>(largest));
  if (!valid) return;
#pragma unroll
  for (int i = 0; i < kQuantizePacks; ++i) {
    if (column(i) >= a.cols) break;
    float v[kWide];
    load_scaled<E, kFactor>(packs[i], a.factor + column(i), v);
    store_e4m3<E>(a.values + row * a.cols + column(i), v, scale.inverse);
  }
  if (lane == 0) a.scale[row] = scale.scale;
}

// Any length and alignment: a block a row, which is read twice.
template <class E>
__global__ void __launch_bounds__(kMaxWarps * 32) quantize_any_kernel(QuantizeArgs<E> a) {
  const int64_t row = blockIdx.x;
  const E* x = a.x + row * a.x_stride;
  const auto value = [&](int64_t c) {
    const auto v = static_cast<float>(x[c]);
    return a.factor != nullptr ? v * a.factor[c] : v;
  };
  unsigned largest = 0;
  for (int64_t c = threadIdx.x; c < a.cols; c += kMaxWarps * 32) largest = max(largest, magnitude_bits(value(c)));
  const Fp8Scale scale = fp8_scale(row_max<kMaxWarps>(largest));
  for (int64_t c = threadIdx.x; c < a.cols; c += kMaxWarps * 32) {
    a.values[row * a.cols + c] = static_cast<uint8_t>(to_e4m3(value(c) * scale.inverse, 0.0F) & 0xffU);
  }
  if (threadIdx.x == 0) a.scale[row] = scale.scale;
}

template <class E, int kWarps>
void launch_rows(cudaStream_t stream, const QuantizeArgs<E>& a) {
  constexpr int kBlock = kWarps * 32 > kThreads ? kWarps * 32 : kThreads;
  constexpr int64_t kRows = kBlock / (32 * kWarps);
  const auto grid = static_cast<unsigned>((a.rows + kRows - 1) / kRows);
  if (a.factor != nullptr) {
    quantize_rows_kernel<E, kWarps, true><<<grid, kBlock, 0, stream>>>(a);
  } else {
    quantize_rows_kernel<E, kWarps, false><<<grid, kBlock, 0, stream>>>(a);
  }
}

constexpr int kByteTile = 64;  // bytes a side

__global__ void __launch_bounds__(256)
    transpose_bytes_kernel(int64_t rows, int64_t cols, const uint8_t* x, uint8_t* y) {
  __shared__ alignas(16) uint8_t tile[kByteTile][kByteTile + 4];
  const int64_t r0 = static_cast<int64_t>(blockIdx.y) * kByteTile;
  const int64_t c0 = static_cast<int64_t>(blockIdx.x) * kByteTile;
  const int word = static_cast<int>(threadIdx.x) % 16 * 4;
  for (int r = static_cast<int>(threadIdx.x) / 16; r < kByteTile; r += 16) {
    if (r0 + r < rows && c0 + word < cols) {
      *reinterpret_cast<uchar4*>(&tile[r][word]) = *reinterpret_cast<const uchar4*>(x + (r0 + r) * cols + c0 + word);
    }
  }
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x) / 16; c < kByteTile; c += 16) {
    if (c0 + c < cols && r0 + word < rows) {
      *reinterpret_cast<uchar4*>(y + (c0 + c) * rows + r0 + word) =
          make_uchar4(tile[word][c], tile[word + 1][c], tile[word + 2][c], tile[word + 3][c]);
    }
  }
}

}  // namespace

template <class T>
void quantize_cuda(Context& ctx, const QuantizeArgs<T>& args) {
  constexpr int kWide = kPackWidth<T>;
  constexpr int64_t kWarpColumns = int64_t{32} * kQuantizePacks * kWide;
  const cudaStream_t stream = cuda_stream(ctx);
  // `values` and `factor` are whole buffers; their rows start where their width's multiples do.
  const bool aligned = args.cols % kWide == 0 && rows_aligned(args.x, args.x_stride, kWide) &&
                       rows_aligned(args.factor, 0, 4) && reinterpret_cast<uintptr_t>(args.values) % kWide == 0;
  if (!aligned || args.cols > kMaxWarps * kWarpColumns) {
    quantize_any_kernel<T><<<static_cast<unsigned>(args.rows), kMaxWarps * 32, 0, stream>>>(args);
  } else if (args.cols <= kWarpColumns) {
    launch_rows<T, 1>(stream, args);
  } else if (args.cols <= 2 * kWarpColumns) {
    launch_rows<T, 2>(stream, args);
  } else if (args.cols <= 4 * kWarpColumns) {
    launch_rows<T, 4>(stream, args);
  } else {
    launch_rows<T, 8>(stream, args);
  }
  MATVLM_LAUNCH_CHECK();
}

void transpose_bytes_cuda(Context& ctx, int64_t rows, int64_t cols, const uint8_t* x, uint8_t* y) {
  const dim3 grid(static_cast<unsigned>((cols + kByteTile - 1) / kByteTile),
                  static_cast<unsigned>((rows + kByteTile - 1) / kByteTile));
  transpose_bytes_kernel<<<grid, 256, 0, cuda_stream(ctx)>>>(rows, cols, x, y);
  MATVLM_LAUNCH_CHECK();
}

template void quantize_cuda<float>(Context&, const QuantizeArgs<float>&);
template void quantize_cuda<bf16>(Context&, const QuantizeArgs<bf16>&);

}  // namespace matvlm
