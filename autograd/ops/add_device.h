// GPU launchers of add.h (add.cu); add_no_cuda.cpp throws.
#pragma once

#include <cstdint>

#include "core/context.h"
#include "core/dtype.h"

namespace matvlm {

constexpr int kMaxAddTerms = 4;  // of one launch

// dst[r, c] = (accumulate ? dst[r, c] : 0) + sum over i of term_i[r, c], in order.
struct AddDeviceArgs {
  int64_t rows = 0, cols = 0;
  int count = 0;
  const void* terms[kMaxAddTerms] = {};
  int64_t strides[kMaxAddTerms] = {};
  void* dst = nullptr;
  int64_t dst_stride = 0;
  bool accumulate = false;
  DType dtype = DType::f32;
};
void add_cuda(Context& ctx, const AddDeviceArgs& args);

}  // namespace matvlm
