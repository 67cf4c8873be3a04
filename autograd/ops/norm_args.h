// Arguments of the kernels of layer_norm.cu (kCentered) and rms_norm.cu.
#pragma once

#include "autograd/ops/norm_sum.h"

namespace matvlm {

template <class T>
struct NormForwardArgs {
  int64_t rows, cols;
  const T* x;
  int64_t x_stride;
  const T* w;
  const T* b;  // kCentered only
  float eps;
  T* y;
  int64_t y_stride;
  float* mean;  // kCentered only
  float* inv;
  NormSum<T> sum = {};
};

template <class T>
struct NormBackwardArgs {
  int64_t rows, cols;
  const T* dy;
  int64_t dy_stride;
  const T* x;
  int64_t x_stride;
  const T* w;
  const float* mean;  // kCentered only
  const float* inv;
  T* dx;
  int64_t dx_stride;
  bool accumulate;
  float* partial_w;  // [chunks, C] or nullptr
  float* partial_b;  // [chunks, C] or nullptr
};

}  // namespace matvlm
