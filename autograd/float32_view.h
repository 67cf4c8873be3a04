// float32 values of parameters in either form that they are stored in: whole, or split into the bf16 copy that compute
// reads anyway and what that lacks (autograd/split_float.h), which is 2 1/8 bytes a value in place of 4.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"

namespace matvlm {

// A view: copies share the values.
class Float32View {
 public:
  // Values that share a byte of `up`; views begin at multiples of it.
  static constexpr int64_t kUpBits = 8;

  Float32View() = default;
  Float32View(Tensor whole);  // f32; a tensor is a view of itself. NOLINT(google-explicit-constructor)
  // high: bf16. low: i16, of the same shape. up: u8 [ceil(numel / 8)], the value i in bit i % 8 of byte i / 8.
  Float32View(Tensor high, Tensor low, Tensor up);

  bool defined() const { return whole_.defined() || split(); }
  bool split() const { return high_.defined(); }
  const Shape& shape() const { return first().shape(); }
  int64_t numel() const { return first().numel(); }
  const void* raw() const { return first().raw(); }  // of the values, or of their bf16 copy
  // Elements [begin, end) of a 1-d view, as `shape`.
  Float32View slice(int64_t begin, int64_t end, const Shape& shape) const;

  const Tensor& whole() const { return whole_; }  // undefined where split
  const Tensor& high() const { return high_; }    // this and the next ones: undefined where whole
  const Tensor& low() const { return low_; }
  const Tensor& up() const { return up_; }

  // Values as a host vector; synchronises.
  std::vector<float> to_floats(Context& ctx) const;
  // The bf16 copy of split values is rounded from them.
  void copy_from_floats(Context& ctx, std::span<const float> values) const;

  // Elements [begin, begin + values.size()) of split values in the CPU's memory. begin: a multiple of kUpBits, and
  // nobody else writes within the last byte of `up`.
  void read_cpu(int64_t begin, std::span<float> values) const;
  void write_cpu(int64_t begin, std::span<const float> values) const;

 private:
  const Tensor& first() const { return split() ? high_ : whole_; }
  Tensor whole_, high_, low_, up_;
};

}  // namespace matvlm
