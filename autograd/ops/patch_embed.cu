// Kernels around the patch convolution: transposes through shared memory, bias and positions.
#include "autograd/ops/elementwise.cuh"
#include "autograd/ops/patch_embed_device.h"

namespace matvlm {
namespace {

constexpr int kTile = 32;
constexpr int kTileRows = 8;

// Block (x, y, z): 32 patches, 32 channels, image z. Reads along patches, writes along channels.
template <class T>
__global__ void planes_to_rows_kernel(int64_t images, int64_t patches, int64_t width, const T* planes, const T* bias,
                                      const T* position, T* y) {
  __shared__ float tile[kTile][kTile + 1];
  const int64_t patch0 = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t channel0 = static_cast<int64_t>(blockIdx.y) * kTile;
  for (int64_t image = blockIdx.z; image < images; image += gridDim.z) {
    __syncthreads();
    for (int j = threadIdx.y; j < kTile; j += kTileRows) {
      const int64_t patch = patch0 + threadIdx.x;
      const int64_t channel = channel0 + j;
      if (patch < patches && channel < width) {
        tile[j][threadIdx.x] = load_float(planes + (image * width + channel) * patches + patch);
      }
    }
    __syncthreads();
    for (int j = threadIdx.y; j < kTile; j += kTileRows) {
      const int64_t patch = patch0 + j;
      const int64_t channel = channel0 + threadIdx.x;
      if (patch < patches && channel < width) {
        const float added = load_float(bias + channel) + load_float(position + patch * width + channel);
        store_float(y + (image * patches + patch) * width + channel, tile[threadIdx.x][j] + added);
      }
    }
  }
}

template <class T>
__global__ void rows_to_planes_kernel(int64_t images, int64_t patches, int64_t width, const T* dy, int64_t dy_stride,
                                      float* dplanes) {
  __shared__ float tile[kTile][kTile + 1];
  const int64_t patch0 = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t channel0 = static_cast<int64_t>(blockIdx.y) * kTile;
  for (int64_t image = blockIdx.z; image < images; image += gridDim.z) {
    __syncthreads();
    for (int j = threadIdx.y; j < kTile; j += kTileRows) {
      const int64_t patch = patch0 + j;
      const int64_t channel = channel0 + threadIdx.x;
      if (patch < patches && channel < width) {
        tile[j][threadIdx.x] = load_float(dy + (image * patches + patch) * dy_stride + channel);
      }
    }
    __syncthreads();
    for (int j = threadIdx.y; j < kTile; j += kTileRows) {
      const int64_t patch = patch0 + threadIdx.x;
      const int64_t channel = channel0 + j;
      if (patch < patches && channel < width) {
        dplanes[(image * width + channel) * patches + patch] = tile[threadIdx.x][j];
      }
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

dim3 tile_grid(const PatchGeometry& g) {
  return dim3(grid_for(g.patches(), kTile), grid_for(g.width, kTile),
              static_cast<unsigned>(g.images < 65535 ? g.images : 65535));
}

bool empty(const PatchGeometry& g) { return g.images == 0 || g.patches() == 0 || g.width == 0; }

}  // namespace

void planes_to_rows_cuda(Context& ctx, const PatchGeometry& g, DType dtype, const void* planes, const void* bias,
                         const void* position, void* y) {
  if (empty(g)) return;
  dispatch_float("patch_embed", dtype, [&](auto type) {
    using T = decltype(type);
    planes_to_rows_kernel<<<tile_grid(g), dim3(kTile, kTileRows), 0, cuda_stream(ctx)>>>(
        g.images, g.patches(), g.width, static_cast<const T*>(planes), static_cast<const T*>(bias),
        static_cast<const T*>(position), static_cast<T*>(y));
  });
  MATVLM_LAUNCH_CHECK();
}

void rows_to_planes_cuda(Context& ctx, const PatchGeometry& g, DType dtype, const void* dy, int64_t dy_stride,
                         float* dplanes) {
  if (empty(g)) return;
  dispatch_float("patch_embed", dtype, [&](auto type) {
    using T = decltype(type);
    rows_to_planes_kernel<<<tile_grid(g), dim3(kTile, kTileRows), 0, cuda_stream(ctx)>>>(
        g.images, g.patches(), g.width, static_cast<const T*>(dy), dy_stride, dplanes);
  });
  MATVLM_LAUNCH_CHECK();
}

void add_position_grad_cuda(Context& ctx, const PatchGeometry& g, DType dtype, const void* dy, int64_t dy_stride,
                            float* dposition) {
  if (empty(g)) return;
  constexpr int kThreads = 256;
  dispatch_float("patch_embed", dtype, [&](auto type) {
    using T = decltype(type);
    position_grad_kernel<<<grid_for(g.patches() * g.width, kThreads), kThreads, 0, cuda_stream(ctx)>>>(
        g.images, g.patches(), g.width, static_cast<const T*>(dy), dy_stride, dposition);
  });
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm
