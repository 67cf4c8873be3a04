// Launchers of layer_norm.cu (kCentered) and rms_norm.cu, and their kernels for rows of any length and alignment: one
// block a row. Weight gradients by row chunks.
#pragma once

#include "autograd/ops/add_device.h"
#include "autograd/ops/elementwise.cuh"
#include "autograd/ops/norm_rows.cuh"
#include "autograd/ops/reduce_device.h"

namespace matvlm {

constexpr int kNormThreads = 256;

template <class T, bool kCentered>
__global__ void norm_forward_kernel(NormForwardArgs<T> a) {
  const float scale = 1.0F / static_cast<float>(a.cols);
  for (int64_t r = blockIdx.x; r < a.rows; r += gridDim.x) {
    const T* x = a.x + r * a.x_stride;
    T* y = a.y + r * a.y_stride;
    float mean = 0;
    if (kCentered) {
      for (int64_t c = threadIdx.x; c < a.cols; c += kNormThreads) mean += load_float(x + c);
      mean = block_sum(mean) * scale;
    }
    float square = 0;
    for (int64_t c = threadIdx.x; c < a.cols; c += kNormThreads) {
      const float d = load_float(x + c) - mean;
      square += d * d;
    }
    const float inv = 1.0F / sqrtf(block_sum(square) * scale + a.eps);
    for (int64_t c = threadIdx.x; c < a.cols; c += kNormThreads) {
      const float bias = kCentered ? load_float(a.b + c) : 0.0F;
      store_float(y + c, (load_float(x + c) - mean) * inv * load_float(a.w + c) + bias);
    }
    if (threadIdx.x == 0) {
      if (kCentered) a.mean[r] = mean;
      a.inv[r] = inv;
    }
  }
}

template <class T, bool kCentered>
__global__ void norm_backward_kernel(NormBackwardArgs<T> a) {
  const float scale = 1.0F / static_cast<float>(a.cols);
  for (int64_t r = blockIdx.x; r < a.rows; r += gridDim.x) {
    const T* dy = a.dy + r * a.dy_stride;
    const T* x = a.x + r * a.x_stride;
    T* dx = a.dx + r * a.dx_stride;
    const float mean = kCentered ? a.mean[r] : 0.0F;
    const float inv = a.inv[r];
    float mean_g = 0;
    float mean_gn = 0;
    for (int64_t c = threadIdx.x; c < a.cols; c += kNormThreads) {
      const float g = load_float(dy + c) * load_float(a.w + c);
      mean_g += g;
      mean_gn += g * ((load_float(x + c) - mean) * inv);
    }
    mean_g = kCentered ? block_sum(mean_g) * scale : 0.0F;
    mean_gn = block_sum(mean_gn) * scale;
    for (int64_t c = threadIdx.x; c < a.cols; c += kNormThreads) {
      const float g = load_float(dy + c) * load_float(a.w + c);
      store_or_add(dx + c, inv * (g - mean_g - (load_float(x + c) - mean) * inv * mean_gn), a.accumulate);
    }
  }
}

constexpr int kNormTileCols = 32;
constexpr int kNormTileRows = 8;

// Block (x, y): 32 columns, row chunk y; as in reduce.cu, with the products formed on the way.
template <class T, bool kCentered>
__global__ void norm_weight_grad_kernel(NormBackwardArgs<T> a, int64_t rows_per_chunk) {
  __shared__ float tile[2][kNormTileRows][kNormTileCols];
  const int64_t col = static_cast<int64_t>(blockIdx.x) * kNormTileCols + threadIdx.x;
  const int64_t begin = blockIdx.y * rows_per_chunk;
  const int64_t end = min(a.rows, begin + rows_per_chunk);
  float dw = 0;
  float db = 0;
  if (col < a.cols) {
    for (int64_t r = begin + threadIdx.y; r < end; r += kNormTileRows) {
      const float dy = load_float(a.dy + r * a.dy_stride + col);
      const float mean = kCentered ? a.mean[r] : 0.0F;
      dw += dy * ((load_float(a.x + r * a.x_stride + col) - mean) * a.inv[r]);
      db += dy;
    }
  }
  tile[0][threadIdx.y][threadIdx.x] = dw;
  tile[1][threadIdx.y][threadIdx.x] = db;
  __syncthreads();
  if (threadIdx.y > 1 || col >= a.cols) return;
  float* partial = threadIdx.y == 0 ? a.partial_w : a.partial_b;
  if (partial == nullptr) return;
  float total = 0;
  for (int j = 0; j < kNormTileRows; ++j) total += tile[threadIdx.y][j][threadIdx.x];
  partial[blockIdx.y * a.cols + col] = total;
}

// The sum by a kernel of its own; what is left is the norm of it.
template <class T>
NormForwardArgs<T> form_sum(Context& ctx, const NormForwardArgs<T>& a) {
  static_assert(kNormAddends < kMaxAddTerms);
  AddDeviceArgs add{.rows = a.rows,
                    .cols = a.cols,
                    .count = 1 + a.sum.addends,
                    .dst = a.sum.sum,
                    .dst_stride = a.sum.sum_stride,
                    .dtype = kDType<T>};
  add.terms[0] = a.x;
  add.strides[0] = a.x_stride;
  for (int k = 0; k < a.sum.addends; ++k) {
    add.terms[k + 1] = a.sum.addend[k];
    add.strides[k + 1] = a.sum.stride[k];
  }
  add_cuda(ctx, add);
  NormForwardArgs<T> rest = a;
  rest.x = a.sum.sum;
  rest.x_stride = a.sum.sum_stride;
  rest.sum = {};
  return rest;
}

template <class T, bool kCentered>
void launch_norm_forward(Context& ctx, const NormForwardArgs<T>& a) {
  if (a.rows == 0 || a.cols == 0 || launch_norm_forward_rows<T, kCentered>(ctx, a)) return;
  if (a.sum.addends > 0) return launch_norm_forward<T, kCentered>(ctx, form_sum(ctx, a));
  norm_forward_kernel<T, kCentered><<<grid_for(a.rows, 1), kNormThreads, 0, cuda_stream(ctx)>>>(a);
  MATVLM_LAUNCH_CHECK();
}

// dw, db: added to; nullptr when not wanted.
template <class T, bool kCentered>
void launch_norm_backward(Context& ctx, const NormBackwardArgs<T>& a, float* dw, float* db) {
  if (a.rows == 0 || a.cols == 0) return;
  if (a.dx != nullptr && !launch_norm_backward_rows<T, kCentered>(ctx, a)) {
    norm_backward_kernel<T, kCentered><<<grid_for(a.rows, 1), kNormThreads, 0, cuda_stream(ctx)>>>(a);
    MATVLM_LAUNCH_CHECK();
  }
  if (dw == nullptr && db == nullptr) return;
  const int64_t chunks = reduce_chunks(a.rows);
  const dim3 grid(grid_for(a.cols, kNormTileCols), static_cast<unsigned>(chunks));
  norm_weight_grad_kernel<T, kCentered>
      <<<grid, dim3(kNormTileCols, kNormTileRows), 0, cuda_stream(ctx)>>>(a, (a.rows + chunks - 1) / chunks);
  MATVLM_LAUNCH_CHECK();
  if (dw != nullptr) add_partials_cuda(ctx, chunks, a.cols, a.partial_w, dw);
  if (db != nullptr) add_partials_cuda(ctx, chunks, a.cols, a.partial_b, db);
}

}  // namespace matvlm
