// Checks that ops share.
#pragma once

#include "autograd/seqlens.h"
#include "core/tensor.h"

namespace matvlm {

// Error naming op and argument unless the tensor is defined and has this shape, dtype and device.
inline void check_operand(const char* op, const char* argument, const Tensor& t, const Shape& shape, DType dtype,
                          const Device& device) {
  check_shape(op, argument, t, shape);
  check_dtype(op, argument, t, dtype);
  check(t.device() == device, "[", op, "] ", argument, ": found on ", device_name(t.device()), ", expected on ",
        device_name(device));
}

inline void check_contiguous(const char* op, const char* argument, const Tensor& t) {
  check(t.contiguous(), "[", op, "] ", argument, " ", shape_string(t.shape()), ": found row stride ", t.row_stride(),
        ", expected contiguous");
}

// Error unless the boundaries are there and cover `tokens` tokens.
inline void check_lens(const char* op, const SeqlensPtr& lens, int64_t tokens) {
  check(lens != nullptr, "[", op, "] sample boundaries are missing");
  check(lens->tokens() == tokens, "[", op, "] sample boundaries cover ", lens->tokens(), " tokens, expected ", tokens);
}

// Boundaries in the memory of the op's device.
inline const int64_t* device_cu(const Seqlens& lens, bool on_gpu) {
  return on_gpu ? lens.device_cu.data<int64_t>() : lens.cu.data();
}

}  // namespace matvlm
