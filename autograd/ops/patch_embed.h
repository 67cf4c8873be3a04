// Patch embedding of a vision transformer: a convolution whose stride is its kernel, plus learned positions.
//   n images, S side in pixels, p side of a patch, g = S / p (rest of the division ignored, as a valid convolution
//   does), P = g * g patches per image, D width
#pragma once

#include <cstdint>

#include "autograd/graph.h"

namespace matvlm {

// images [n, 3, S, S], f32 or w's dtype; w [D, 3, p, p]; bias [D]; position [P, D] -> [n * P, D] in w's dtype,
// contiguous: patch (i, j) of image k is row k * P + i * g + j. Gradients for the trained ones of w, bias and position;
// images get none.
Var patch_embed(Graph& g, const Tensor& images, const Weight& w, const Weight& bias, const Weight& position);

// On the CPU. Columns are the patches as rows, [n * P, 3 * p * p]; scratch that the caller passes in.
template <class T>
struct PatchEmbedForward {
  int64_t images = 0, side = 0, patch = 0, width = 0;  // n, S, p, D
  const T* pixels = nullptr;                           // [n, 3, S, S]
  const T* w = nullptr;                                // [D, 3, p, p]
  const T* bias = nullptr;                             // [D]
  const T* position = nullptr;                         // [P, D]
  T* columns = nullptr;                                // [n * P, 3 * p * p], scratch
  T* y = nullptr;                                      // [n * P, D]
};

template <class T>
struct PatchEmbedBackward {
  int64_t images = 0, side = 0, patch = 0, width = 0;
  const T* dy = nullptr;  // [n * P, D]
  int64_t dy_stride = 0;
  const T* pixels = nullptr;  // [n, 3, S, S]
  T* columns = nullptr;       // [n * P, 3 * p * p], scratch
  T* dw = nullptr;            // [D, 3, p, p], added to; nullptr: not wanted
  T* dbias = nullptr;         // [D], added to; nullptr: not wanted
  T* dposition = nullptr;     // [P, D], added to; nullptr: not wanted
};

}  // namespace matvlm
