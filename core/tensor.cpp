// Tensor bookkeeping; no arithmetic.
#include "core/tensor.h"

#include <limits>
#include <utility>

#include "core/allocator.h"

namespace matvlm {

struct Tensor::Buffer {
  std::shared_ptr<Allocator> allocator;
  void* block = nullptr;
  Buffer(std::shared_ptr<Allocator> a, int64_t bytes) : allocator(std::move(a)), block(allocator->allocate(bytes)) {}
  ~Buffer() { allocator->deallocate(block); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
};

Tensor::Tensor() = default;
Tensor::Tensor(const Tensor&) = default;
Tensor::Tensor(Tensor&&) noexcept = default;
Tensor& Tensor::operator=(const Tensor&) = default;
Tensor& Tensor::operator=(Tensor&&) noexcept = default;
Tensor::~Tensor() = default;

std::string shape_string(const Shape& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += cat(i == 0 ? "" : ", ", shape[i]);
  return out + "]";
}

int64_t shape_numel(const Shape& shape) {
  int64_t n = 1;
  for (const int64_t d : shape) {
    check(d >= 0, "[tensor] negative dimension in ", shape_string(shape));
    check(d == 0 || n <= std::numeric_limits<int64_t>::max() / 16 / d, "[tensor] shape ", shape_string(shape),
          " is too large");
    n *= d;
  }
  return n;
}

Tensor Tensor::make(const std::shared_ptr<Allocator>& allocator, const Device& device, Shape shape, DType dtype) {
  check(!shape.empty(), "[tensor] a shape needs at least one dimension");
  Tensor t;
  t.numel_ = shape_numel(shape);
  t.shape_ = std::move(shape);
  t.row_stride_ = t.cols();
  t.dtype_ = dtype;
  t.device_ = device;
  t.buffer_ = std::make_shared<Buffer>(allocator, t.numel_ * dtype_size(dtype));
  return t;
}

Tensor Tensor::empty(Context& ctx, Shape shape, DType dtype) {
  return make(ctx.allocator(), ctx.device(), std::move(shape), dtype);
}

Tensor Tensor::zeros_on_host(Context& ctx, Shape shape, DType dtype) {
  Tensor t = make(ctx.host_allocator(), ctx.device(), std::move(shape), dtype);
  t.zero(ctx);
  return t;
}

Tensor Tensor::zeros(Context& ctx, Shape shape, DType dtype) {
  Tensor t = empty(ctx, std::move(shape), dtype);
  t.zero(ctx);
  return t;
}

template <class T>  // the shape is moved on; clang-tidy does not see that in a template. NOLINTNEXTLINE
Tensor Tensor::from(Context& ctx, std::span<const T> values, Shape shape) {
  Tensor t = empty(ctx, std::move(shape), kDType<T>);
  check(static_cast<int64_t>(values.size()) == t.numel_, "[tensor] found ", values.size(), " values for shape ",
        shape_string(t.shape_));
  ctx.to_device(t.raw(), values.data(), t.numel_ * dtype_size(t.dtype_));
  return t;
}
template Tensor Tensor::from<float>(Context&, std::span<const float>, Shape);
template Tensor Tensor::from<double>(Context&, std::span<const double>, Shape);
template Tensor Tensor::from<bf16>(Context&, std::span<const bf16>, Shape);
template Tensor Tensor::from<int32_t>(Context&, std::span<const int32_t>, Shape);
template Tensor Tensor::from<int64_t>(Context&, std::span<const int64_t>, Shape);
template Tensor Tensor::from<uint8_t>(Context&, std::span<const uint8_t>, Shape);

Tensor Tensor::from_floats(Context& ctx, std::span<const float> values, Shape shape, DType dtype) {
  Tensor t = empty(ctx, std::move(shape), dtype);
  t.copy_from_floats(ctx, values);
  return t;
}

void Tensor::copy_from_floats(Context& ctx, std::span<const float> values) const {
  check(static_cast<int64_t>(values.size()) == numel_, "[tensor] found ", values.size(), " values for shape ",
        shape_string(shape_));
  check(contiguous(), "[tensor] values for a column range of ", shape_string(shape_));
  if (dtype_ == DType::f32) {
    ctx.to_device(raw(), values.data(), numel_ * dtype_size(dtype_));
    return;
  }
  check(dtype_ == DType::bf16, "[tensor] from_floats: found ", dtype_name(dtype_), ", expected f32 or bf16");
  std::vector<bf16> rounded(values.size());
  for (size_t i = 0; i < values.size(); ++i) rounded[i] = bf16(values[i]);
  ctx.to_device(raw(), rounded.data(), numel_ * dtype_size(dtype_));
}

int64_t Tensor::dim(int64_t i) const {
  const int64_t index = i < 0 ? i + rank() : i;
  check(index >= 0 && index < rank(), "[tensor] dimension ", i, " of ", shape_string(shape_));
  return shape_[static_cast<size_t>(index)];
}

void* Tensor::raw() const {
  check(defined(), "[tensor] use of an undefined tensor");
  return static_cast<char*>(buffer_->block) + offset_ * dtype_size(dtype_);
}

Tensor Tensor::reshape(Shape shape) const {
  check(shape_numel(shape) == numel_, "[tensor] reshape ", shape_string(shape_), " to ", shape_string(shape));
  Tensor t = *this;
  const bool same_cols = !shape.empty() && shape.back() == cols();
  check(same_cols || contiguous(), "[tensor] reshape of a column range ", shape_string(shape_), " to ",
        shape_string(shape));
  t.shape_ = std::move(shape);
  if (!same_cols) t.row_stride_ = t.cols();
  return t;
}

Tensor Tensor::slice_rows(int64_t begin, int64_t end) const {
  check(rank() >= 1 && 0 <= begin && begin <= end && end <= shape_[0], "[tensor] rows ", begin, "..", end, " of ",
        shape_string(shape_));
  Tensor t = *this;
  const int64_t inner = shape_[0] == 0 ? 0 : numel_ / shape_[0];
  t.shape_[0] = end - begin;
  t.numel_ = inner * (end - begin);
  if (rank() == 1) {
    t.offset_ += begin;
    t.row_stride_ = t.cols();
  } else {
    t.offset_ += cols() == 0 ? 0 : begin * (inner / cols()) * row_stride_;
  }
  return t;
}

Tensor Tensor::slice_cols(int64_t begin, int64_t end) const {
  check(rank() >= 1 && 0 <= begin && begin <= end && end <= cols(), "[tensor] columns ", begin, "..", end, " of ",
        shape_string(shape_));
  Tensor t = *this;
  t.numel_ = rows() * (end - begin);
  t.shape_.back() = end - begin;
  t.offset_ += begin;
  return t;
}

Tensor Tensor::view_bytes(int64_t begin, Shape shape, DType dtype) const {
  const int64_t size = dtype_size(dtype);
  const int64_t numel = shape_numel(shape);
  check(dtype_ == DType::u8 && contiguous() && begin >= 0 && (offset_ + begin) % size == 0 &&
            begin + numel * size <= numel_,
        "[tensor] ", shape_string(shape), " of ", dtype_name(dtype), " at byte ", begin, " of ", dtype_name(dtype_),
        " ", shape_string(shape_));
  Tensor t = *this;
  t.offset_ = (offset_ + begin) / size;
  t.shape_ = std::move(shape);
  t.numel_ = numel;
  t.row_stride_ = t.cols();
  t.dtype_ = dtype;
  return t;
}

Tensor Tensor::clone(Context& ctx) const {
  Tensor t = empty(ctx, shape_, dtype_);
  t.copy_from(ctx, *this);
  return t;
}

void Tensor::copy_from(Context& ctx, const Tensor& src) const {
  check(shape_ == src.shape_ && dtype_ == src.dtype_, "[tensor] copy ", dtype_name(src.dtype_), " ",
        shape_string(src.shape_), " to ", dtype_name(dtype_), " ", shape_string(shape_));
  check(device_ == src.device_ && device_ == ctx.device(), "[tensor] copy between devices");
  const int64_t size = dtype_size(dtype_);
  ctx.copy_2d(raw(), row_stride_ * size, src.raw(), src.row_stride_ * size, cols() * size, rows());
}

void Tensor::zero(Context& ctx) const {
  if (contiguous()) {
    ctx.fill_bytes(raw(), 0, numel_ * dtype_size(dtype_));
    return;
  }
  // One copy of many rows, rather than a call for each.
  copy_from(ctx, zeros(ctx, shape_, dtype_));
}

void Tensor::read_host(Context& ctx, void* dst) const {
  if (contiguous()) {
    ctx.to_host(dst, raw(), numel_ * dtype_size(dtype_));
  } else {
    const Tensor packed = clone(ctx);
    ctx.to_host(dst, packed.raw(), numel_ * dtype_size(dtype_));
  }
}

template <class T>
std::vector<T> Tensor::to_vector(Context& ctx) const {
  check(dtype_ == kDType<T>, "[tensor] found ", dtype_name(dtype_), ", expected ", dtype_name(kDType<T>));
  std::vector<T> out(static_cast<size_t>(numel_));
  read_host(ctx, out.data());
  return out;
}
template std::vector<float> Tensor::to_vector<float>(Context&) const;
template std::vector<double> Tensor::to_vector<double>(Context&) const;
template std::vector<bf16> Tensor::to_vector<bf16>(Context&) const;
template std::vector<int32_t> Tensor::to_vector<int32_t>(Context&) const;
template std::vector<int64_t> Tensor::to_vector<int64_t>(Context&) const;
template std::vector<int16_t> Tensor::to_vector<int16_t>(Context&) const;
template std::vector<uint8_t> Tensor::to_vector<uint8_t>(Context&) const;

std::vector<float> Tensor::to_floats(Context& ctx) const {
  if (dtype_ == DType::f32) return to_vector<float>(ctx);
  const auto convert = [](const auto& values) {
    std::vector<float> out(values.size());
    for (size_t i = 0; i < values.size(); ++i) out[i] = static_cast<float>(values[i]);
    return out;
  };
  if (dtype_ == DType::bf16) return convert(to_vector<bf16>(ctx));
  return convert(to_vector<double>(ctx));
}

void check_shape(const char* op, const char* argument, const Tensor& t, const Shape& expected) {
  check(t.defined(), "[", op, "] ", argument, " is undefined, expected ", shape_string(expected));
  if (t.shape() != expected) {
    fail("[", op, "] ", argument, ": found ", shape_string(t.shape()), ", expected ", shape_string(expected));
  }
}

void check_dtype(const char* op, const char* argument, const Tensor& t, DType expected) {
  if (t.dtype() != expected) {
    fail("[", op, "] ", argument, ": found ", dtype_name(t.dtype()), ", expected ", dtype_name(expected));
  }
}

}  // namespace matvlm
