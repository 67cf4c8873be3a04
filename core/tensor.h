// Tensor: shared buffer + shape + dtype + device. The elements of the last dimension ("columns") are contiguous; all
// leading dimensions together are "rows" at a uniform stride, so a view may cut rows (leading dimension) or a column
// range. Ops therefore take (pointer, row stride). Anything else is an error, never a silent copy.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/context.h"
#include "core/dtype.h"
#include "core/error.h"

namespace matvlm {

using Shape = std::vector<int64_t>;
std::string shape_string(const Shape& shape);  // "[2, 3]"
int64_t shape_numel(const Shape& shape);       // Error when negative or overflowing

class Tensor {
 public:
  // In tensor.cpp, and not made by the compiler wherever a tensor is copied or goes out of scope: every op does that.
  Tensor();
  Tensor(const Tensor&);
  Tensor(Tensor&&) noexcept;
  Tensor& operator=(const Tensor&);
  Tensor& operator=(Tensor&&) noexcept;
  ~Tensor();
  // Uninitialised.
  static Tensor empty(Context& ctx, Shape shape, DType dtype);
  static Tensor zeros(Context& ctx, Shape shape, DType dtype);
  // Zeros in host memory that the device reads (Context::host_allocator); a tensor of the device in all else.
  static Tensor zeros_on_host(Context& ctx, Shape shape, DType dtype);
  // Copies host values; the element type must be `dtype`'s, or float for a bf16 tensor (rounded).
  template <class T>
  static Tensor from(Context& ctx, std::span<const T> values, Shape shape);
  template <class T>
  static Tensor from(Context& ctx, const std::vector<T>& values, Shape shape) {
    return from(ctx, std::span<const T>(values), std::move(shape));
  }
  // float values stored as `dtype` (f32 or bf16).
  static Tensor from_floats(Context& ctx, std::span<const float> values, Shape shape, DType dtype);

  bool defined() const { return buffer_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int64_t rank() const { return static_cast<int64_t>(shape_.size()); }
  int64_t dim(int64_t i) const;  // negative counts from the end
  int64_t numel() const { return numel_; }
  int64_t cols() const { return shape_.empty() ? 1 : shape_.back(); }
  int64_t rows() const { return cols() == 0 ? 0 : numel_ / cols(); }
  int64_t row_stride() const { return row_stride_; }
  bool contiguous() const { return row_stride_ == cols() || rows() <= 1; }
  DType dtype() const { return dtype_; }
  const Device& device() const { return device_; }
  bool on_gpu() const { return device_.type == DeviceType::cuda; }

  // Typed pointer to the first element; Error when T is not the dtype. A const Tensor still gives access to its shared
  // buffer: constness is that of the handle.
  template <class T>
  T* data() const {
    if (dtype_ != kDType<T>) fail("[tensor] found ", dtype_name(dtype_), ", expected ", dtype_name(kDType<T>));
    return static_cast<T*>(raw());
  }
  void* raw() const;

  // Views of the same buffer.
  Tensor reshape(Shape shape) const;                    // same last dimension, or contiguous
  Tensor slice_rows(int64_t begin, int64_t end) const;  // of the leading dimension
  Tensor slice_cols(int64_t begin, int64_t end) const;  // of the last dimension
  // Of a contiguous u8 tensor: the values that begin at byte `begin`, a multiple of the element's size.
  Tensor view_bytes(int64_t begin, Shape shape, DType dtype) const;

  // Copies (ordered on the context).
  Tensor clone(Context& ctx) const;                                          // contiguous
  void copy_from(Context& ctx, const Tensor& src) const;                     // same shape and dtype
  void copy_from_floats(Context& ctx, std::span<const float> values) const;  // contiguous, f32 or bf16 (rounded)
  void zero(Context& ctx) const;
  // Values as host vectors, row by row; synchronises. Floats from f32, bf16 or f64.
  std::vector<float> to_floats(Context& ctx) const;
  template <class T>
  std::vector<T> to_vector(Context& ctx) const;

 private:
  struct Buffer;
  static Tensor make(const std::shared_ptr<Allocator>& allocator, const Device& device, Shape shape, DType dtype);
  std::shared_ptr<Buffer> buffer_;
  int64_t offset_ = 0;  // elements
  Shape shape_;
  int64_t numel_ = 0;
  int64_t row_stride_ = 0;
  DType dtype_ = DType::f32;
  Device device_;
  void read_host(Context& ctx, void* dst) const;
};

// Error naming op and argument unless the shape is as expected.
void check_shape(const char* op, const char* argument, const Tensor& t, const Shape& expected);
void check_dtype(const char* op, const char* argument, const Tensor& t, DType expected);

// Calls f(float{}) or f(bf16{}) by dtype; Error naming the op otherwise.
template <class F>
decltype(auto) dispatch_float(const char* op, DType dtype, F&& f) {
  if (dtype == DType::f32) return f(float{});
  if (dtype == DType::bf16) return f(bf16{});
  fail("[", op, "] found ", dtype_name(dtype), ", expected f32 or bf16");
}

}  // namespace matvlm
