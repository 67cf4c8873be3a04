// Rows into the pages of a key/value cache, and out of them into one piece. Copies of 16 bytes where rows allow it.
#include "autograd/ops/attention_pages.h"
#include "autograd/ops/elementwise.cuh"

namespace matvlm {
namespace {

constexpr int kPageThreads = 128;

// One row by the threads of a block.
template <class T>
__device__ void copy_row(T* to, const T* from, int64_t width, bool vectors) {
  if (vectors) {
    constexpr int kElements = 16 / sizeof(T);
    for (int64_t i = threadIdx.x; i < width / kElements; i += kPageThreads) {
      reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
    }
    return;
  }
  for (int64_t i = threadIdx.x; i < width; i += kPageThreads) to[i] = from[i];
}

// Pages start at multiples of 256 bytes, so their rows are aligned when a row is.
template <class T>
bool row_vectors(int64_t width) {
  return width * static_cast<int64_t>(sizeof(T)) % 16 == 0;
}

template <class T>
bool aligned(const T* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride * static_cast<int64_t>(sizeof(T)) % 16 == 0;
}

template <class T>
__global__ void __launch_bounds__(kPageThreads) write_kernel(PageWrite<T> w, bool vectors) {
  for (int64_t t = blockIdx.x; t < w.tokens; t += gridDim.x) {
    T* row = reinterpret_cast<T*>(w.targets[t]);
    copy_row(row + w.k_offset, w.k + t * w.k_stride, w.width, vectors);
    copy_row(row + w.v_offset, w.v + t * w.v_stride, w.width, vectors);
  }
}

// A block walks over the keys of sequence blockIdx.y.
template <class T>
__global__ void __launch_bounds__(kPageThreads)
    gather_kernel(AttentionPages pages, AttentionRanges r, int64_t width, T* k, T* v, bool vectors) {
  const int64_t b = blockIdx.y;
  const int64_t first = r.k_begin[b];
  const int64_t keys = r.k_end[b] - first;
  for (int64_t j = blockIdx.x; j < keys; j += gridDim.x) {
    const int64_t page = pages.table[b * pages.width + j / pages.rows];
    const T* row = reinterpret_cast<const T*>(page) + j % pages.rows * width;
    copy_row(k + (first + j) * width, row + pages.k_offset, width, vectors);
    copy_row(v + (first + j) * width, row + pages.v_offset, width, vectors);
  }
}

}  // namespace

template <class T>
void write_pages_cuda(Context& ctx, const PageWrite<T>& args) {
  if (args.tokens == 0) return;
  const bool vectors = row_vectors<T>(args.width) && aligned(args.k, args.k_stride) && aligned(args.v, args.v_stride);
  write_kernel<<<grid_for(args.tokens, 1), kPageThreads, 0, cuda_stream(ctx)>>>(args, vectors);
  MATVLM_LAUNCH_CHECK();
}
template void write_pages_cuda<float>(Context&, const PageWrite<float>&);
template void write_pages_cuda<bf16>(Context&, const PageWrite<bf16>&);

template <class T>
void gather_pages_cuda(Context& ctx, const AttentionPages& pages, const AttentionRanges& ranges, int64_t width, T* k,
                       T* v) {
  if (ranges.batch == 0 || ranges.longest_k == 0) return;
  check(ranges.batch <= 65535, "[kv_cache] on a GPU: found ", ranges.batch, " sequences, expected at most 65535");
  const dim3 grid(grid_for(ranges.longest_k, 1), static_cast<unsigned>(ranges.batch));
  gather_kernel<<<grid, kPageThreads, 0, cuda_stream(ctx)>>>(pages, ranges, width, k, v, row_vectors<T>(width));
  MATVLM_LAUNCH_CHECK();
}
template void gather_pages_cuda<float>(Context&, const AttentionPages&, const AttentionRanges&, int64_t, float*,
                                       float*);
template void gather_pages_cuda<bf16>(Context&, const AttentionPages&, const AttentionRanges&, int64_t, bf16*, bf16*);

}  // namespace matvlm
