// Kernels around the patch embedding's products: patches as rows, bias and positions.
#include "autograd/ops/elementwise.cuh"
#include "autograd/ops/patch_embed_device.h"

namespace matvlm {
namespace {

constexpr int kPatchThreads = 256;

// A block to a row.
template <class T>
__global__ void __launch_bounds__(kPatchThreads)
    patches_as_rows_kernel(int64_t rows, int side, int grid, int patch, const T* pixels, int64_t stride, T* columns) {
  const int area = patch * patch;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const int64_t image = row / (grid * grid);
    const auto place = static_cast<int>(row - image * (grid * grid));
    const T* const corner = pixels + image * 3 * side * side + static_cast<int64_t>(place / grid) * patch * side +
                            static_cast<int64_t>(place % grid) * patch;
    for (int k = static_cast<int>(threadIdx.x); k < stride; k += kPatchThreads) {
      const int channel = k / area;
      const int in_plane = k - channel * area;
      const int64_t at = (static_cast<int64_t>(channel) * side + in_plane / patch) * side + in_plane % patch;
      columns[row * stride + k] = channel < 3 ? corner[at] : T(0.0F);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kPatchThreads)
    add_positions_kernel(int64_t rows, int64_t patches, int64_t width, const T* bias, const T* position, T* y) {
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* const from = position + row % patches * width;
    T* const to = y + row * width;
    for (int64_t c = threadIdx.x; c < width; c += kPatchThreads) {
      const float added = load_float(bias + c) + load_float(from + c);
      store_float(to + c, load_float(to + c) + added);
    }
  }
}

template <class T>
__global__ void position_grad_kernel(int64_t images, int64_t patches, int64_t width, const T* dy, int64_t dy_stride,
                                     float* dposition) {
  const int64_t n = patches * width;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    const int64_t patch = i / width;
    const int64_t channel = i - patch * width;
    float sum = dposition[i];
    for (int64_t k = 0; k < images; ++k) sum += load_float(dy + (k * patches + patch) * dy_stride + channel);
    dposition[i] = sum;
  }
}

// Blocks for a row each.
unsigned row_blocks(const PatchGeometry& g) { return grid_for(g.images * g.patches(), 1); }

bool empty(const PatchGeometry& g) { return g.images == 0 || g.patches() == 0 || g.width == 0; }

}  // namespace

void patches_as_rows_cuda(Context& ctx, const PatchGeometry& g, DType dtype, const void* pixels, int64_t stride,
                          void* columns) {
  if (g.images == 0 || g.patches() == 0) return;
  check(g.side < (1 << 15), "[patch_embed] images of ", g.side, " pixels a side, expected fewer than ", 1 << 15);
  dispatch_float("patch_embed", dtype, [&](auto type) {
    using T = decltype(type);
    patches_as_rows_kernel<<<row_blocks(g), kPatchThreads, 0, cuda_stream(ctx)>>>(
        g.images * g.patches(), static_cast<int>(g.side), static_cast<int>(g.grid()), static_cast<int>(g.patch),
        static_cast<const T*>(pixels), stride, static_cast<T*>(columns));
  });
  MATVLM_LAUNCH_CHECK();
}

void add_positions_cuda(Context& ctx, const PatchGeometry& g, DType dtype, const void* bias, const void* position,
                        void* y) {
  if (empty(g)) return;
  dispatch_float("patch_embed", dtype, [&](auto type) {
    using T = decltype(type);
    add_positions_kernel<<<row_blocks(g), kPatchThreads, 0, cuda_stream(ctx)>>>(
        g.images * g.patches(), g.patches(), g.width, static_cast<const T*>(bias), static_cast<const T*>(position),
        static_cast<T*>(y));
  });
  MATVLM_LAUNCH_CHECK();
}

void add_position_grad_cuda(Context& ctx, const PatchGeometry& g, DType dtype, const void* dy, int64_t dy_stride,
                            float* dposition) {
  if (empty(g)) return;
  dispatch_float("patch_embed", dtype, [&](auto type) {
    using T = decltype(type);
    position_grad_kernel<<<grid_for(g.patches() * g.width, kPatchThreads), kPatchThreads, 0, cuda_stream(ctx)>>>(
        g.images, g.patches(), g.width, static_cast<const T*>(dy), dy_stride, dposition);
  });
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm
