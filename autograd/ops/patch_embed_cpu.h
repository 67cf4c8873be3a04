// Patch embedding on the CPU, for float, double and std::complex<double>: patches as rows, then a matrix product.
#pragma once

#include <algorithm>

#include "autograd/ops/patch_embed.h"
#include "autograd/ops/reduce_cpu.h"
#include "core/gemm.h"

namespace matvlm {

// columns [n * g * g, 3 * p * p]: row (k, i, j) is patch (i, j) of image k, in the order of w's [3, p, p].
template <class T>
void patches_as_rows(int64_t images, int64_t side, int64_t patch, const T* pixels, T* columns) {
  const int64_t grid = side / patch;
#pragma omp parallel for collapse(2)
  for (int64_t k = 0; k < images; ++k) {
    for (int64_t i = 0; i < grid; ++i) {
      for (int64_t j = 0; j < grid; ++j) {
        T* row = columns + ((k * grid + i) * grid + j) * 3 * patch * patch;
        for (int64_t line = 0; line < 3 * patch; ++line) {
          const int64_t channel = line / patch;
          const int64_t y = i * patch + line % patch;
          const T* src = pixels + ((k * 3 + channel) * side + y) * side + j * patch;
          std::copy(src, src + patch, row + line * patch);
        }
      }
    }
  }
}

template <class T>
void patch_embed_forward_cpu(const PatchEmbedForward<T>& a) {
  const int64_t grid = a.side / a.patch;
  const int64_t rows = a.images * grid * grid;
  const int64_t depth = 3 * a.patch * a.patch;
  patches_as_rows(a.images, a.side, a.patch, a.pixels, a.columns);
  // y starts as bias + position and the product is added.
  for (int64_t r = 0; r < rows; ++r) {
    const T* position = a.position + r % (grid * grid) * a.width;
    for (int64_t c = 0; c < a.width; ++c) a.y[r * a.width + c] = a.bias[c] + position[c];
  }
  gemm_cpu<T>(false, true, rows, a.width, depth, T(1), a.columns, depth, a.w, depth, T(1), a.y, a.width);
}

template <class T>
void patch_embed_backward_cpu(const PatchEmbedBackward<T>& a) {
  const int64_t grid = a.side / a.patch;
  const int64_t patches = grid * grid;
  const int64_t rows = a.images * patches;
  const int64_t depth = 3 * a.patch * a.patch;
  if (a.dw != nullptr) {
    patches_as_rows(a.images, a.side, a.patch, a.pixels, a.columns);
    gemm_cpu<T>(true, false, a.width, depth, rows, T(1), a.dy, a.dy_stride, a.columns, depth, T(1), a.dw, depth);
  }
  if (a.dbias != nullptr) add_column_sums_cpu(rows, a.width, a.dy, a.dy_stride, a.dbias);
  if (a.dposition == nullptr) return;
#pragma omp parallel for
  for (int64_t p = 0; p < patches; ++p) {
    for (int64_t k = 0; k < a.images; ++k) {
      const T* dy = a.dy + (k * patches + p) * a.dy_stride;
      for (int64_t c = 0; c < a.width; ++c) a.dposition[p * a.width + c] += dy[c];
    }
  }
}

}  // namespace matvlm
