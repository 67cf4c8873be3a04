// Layer normalisation over the last dimension (Ba et al. 2016).
//   R rows, C columns
#pragma once

#include <cstdint>

#include "autograd/ops/norm_sum.h"

namespace matvlm {

// y = (x - mean) / sqrt(variance + eps) * w + b, per row; variance is the mean square deviation. x [..., C] (may be a
// column view), w [C], b [C] of x's dtype; y contiguous. Statistics in float32.
Var layer_norm(Graph& g, const Var& x, const Weight& w, const Weight& b, double eps);
// A pending sum and its norm, in one kernel where the device can.
SumAndNorm add_layer_norm(Graph& g, const PendingSum& x, const Weight& w, const Weight& b, double eps);

// T: activations and weights (float, bf16 on the GPU; float, double, complex on the CPU). S: statistics (float for
// float and bf16, else T). Outputs are written, never allocated.
template <class T, class S>
struct LayerNormForward {
  int64_t rows = 0, cols = 0;
  const T* x = nullptr;  // [R, C]
  int64_t x_stride = 0;
  const T* w = nullptr;  // [C]
  const T* b = nullptr;  // [C]
  double eps = 0;
  T* y = nullptr;  // [R, C]
  int64_t y_stride = 0;
  S* mean = nullptr;     // [R]
  S* inv_std = nullptr;  // [R]
  NormSum<T> sum = {};   // GPU only
};

template <class T, class S>
struct LayerNormBackward {
  int64_t rows = 0, cols = 0;
  const T* dy = nullptr;  // [R, C]
  int64_t dy_stride = 0;
  const T* x = nullptr;  // [R, C]
  int64_t x_stride = 0;
  const T* w = nullptr;        // [C]
  const S* mean = nullptr;     // [R]
  const S* inv_std = nullptr;  // [R]
  T* dx = nullptr;             // [R, C] or nullptr: not wanted
  int64_t dx_stride = 0;
  bool accumulate = false;  // dx += instead of dx =
  S* dw = nullptr;          // [C], added to; nullptr: not wanted
  S* db = nullptr;          // [C], added to; nullptr: not wanted
  // GPU only: scratch [2, reduce_chunks(R), C] when dw or db is wanted.
  S* partial = nullptr;
};

// layer_norm.cu, for float and bf16; layer_norm_no_cuda.cpp throws.
template <class T>
void layer_norm_forward_cuda(Context& ctx, const LayerNormForward<T, float>& args);
template <class T>
void layer_norm_backward_cuda(Context& ctx, const LayerNormBackward<T, float>& args);

}  // namespace matvlm
