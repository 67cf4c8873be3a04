// Root-mean-square normalisation over the last dimension (Zhang and Sennrich 2019).
//   R rows, C columns
#pragma once

#include <cstdint>

#include "autograd/ops/norm_sum.h"

namespace matvlm {

// y = x / sqrt(mean(x^2) + eps) * w, per row. x [..., C] (may be a column view), w [C] of x's dtype; y contiguous.
// Statistics in float32.
Var rms_norm(Graph& g, const Var& x, const Weight& w, double eps);
// A pending sum and its norm, in one kernel where the device can.
SumAndNorm add_rms_norm(Graph& g, const PendingSum& x, const Weight& w, double eps);

// T and S as in layer_norm.h.
template <class T, class S>
struct RmsNormForward {
  int64_t rows = 0, cols = 0;
  const T* x = nullptr;  // [R, C]
  int64_t x_stride = 0;
  const T* w = nullptr;  // [C]
  double eps = 0;
  T* y = nullptr;  // [R, C]
  int64_t y_stride = 0;
  S* inv_rms = nullptr;  // [R]
  NormSum<T> sum = {};   // GPU only
};

template <class T, class S>
struct RmsNormBackward {
  int64_t rows = 0, cols = 0;
  const T* dy = nullptr;  // [R, C]
  int64_t dy_stride = 0;
  const T* x = nullptr;  // [R, C]
  int64_t x_stride = 0;
  const T* w = nullptr;        // [C]
  const S* inv_rms = nullptr;  // [R]
  T* dx = nullptr;             // [R, C] or nullptr: not wanted
  int64_t dx_stride = 0;
  bool accumulate = false;  // dx += instead of dx =
  S* dw = nullptr;          // [C], added to; nullptr: not wanted
  // GPU only: scratch [reduce_chunks(R), C] when dw is wanted.
  S* partial = nullptr;
};

// rms_norm.cu, for float and bf16; rms_norm_no_cuda.cpp throws.
template <class T>
void rms_norm_forward_cuda(Context& ctx, const RmsNormForward<T, float>& args);
template <class T>
void rms_norm_backward_cuda(Context& ctx, const RmsNormBackward<T, float>& args);

}  // namespace matvlm
