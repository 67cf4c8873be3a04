// What all tensor files share: the directory of names, and conversion of stored elements.
#include "core/tensor_file.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/error.h"

namespace matvlm {
namespace {

// Below this many elements a thread team costs more than it saves.
constexpr int64_t kParallelElements = int64_t{1} << 16;

template <class T>
void convert_elements(std::span<const std::byte> bytes, std::span<float> out) {
  const auto count = static_cast<int64_t>(out.size());
  float* to = out.data();
  const std::byte* from = bytes.data();
#pragma omp parallel for schedule(static) if (count >= kParallelElements)
  for (int64_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, from + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
    to[i] = static_cast<float>(value);
  }
}

struct Half {
  uint16_t bits;
  explicit operator float() const { return half_to_float(bits); }
};

bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f64;
}

}  // namespace

bool TensorInfo::holds_floats() const { return quantised || (dtype && is_float(*dtype)); }

std::vector<std::string> TensorFile::names() const {
  std::vector<std::string> names;
  for (const TensorInfo& info : infos_) names.push_back(info.name);
  return names;
}

const TensorInfo& TensorFile::info(const std::string& name) const {
  const auto place = positions_.find(name);
  if (place == positions_.end()) fail(path_, ": found no tensor '", name, "', expected it");
  return infos_[place->second];
}

void TensorFile::add(TensorInfo info) {
  const bool is_new = positions_.emplace(info.name, infos_.size()).second;
  check(is_new, path_, ": tensor '", info.name, "': found it more than once, expected once");
  infos_.push_back(std::move(info));
}

void TensorFile::gather(const TensorInfo& info, std::span<std::byte> /*out*/) const {
  fail(path_, ": tensor '", info.name, "': found type ", info.type, ", expected elements of a plain type");
}

void TensorFile::dequantise(const TensorInfo& info, std::span<float> /*out*/) const {
  fail(path_, ": tensor '", info.name, "': found type ", info.type, ", expected a quantised one");
}

std::span<const std::byte> TensorFile::bytes(const std::string& name) const {
  const TensorInfo& entry = info(name);
  const auto data = mapped(entry);
  if (!data)
    fail(path_, ": tensor '", name, "': found type ", entry.type, " stored encoded or strided, expected plain");
  return *data;
}

void TensorFile::read_bytes(const std::string& name, std::span<std::byte> out) const {
  const TensorInfo& entry = info(name);
  if (!entry.dtype) fail(path_, ": tensor '", name, "': found type ", entry.type, ", expected a plain one");
  const int64_t size = entry.numel * dtype_size(*entry.dtype);
  check(static_cast<int64_t>(out.size()) == size, path_, ": tensor '", name, "': found ", size, " bytes, expected ",
        out.size());
  if (out.empty()) return;
  if (const auto data = mapped(entry)) {
    std::memcpy(out.data(), data->data(), out.size());
  } else {
    gather(entry, out);
  }
}

void TensorFile::read_floats(const std::string& name, std::span<float> out) const {
  const TensorInfo& entry = info(name);
  const std::string what = cat(path_, ": tensor '", name, "'");
  check(entry.holds_floats(), what, ": found dtype ", entry.type, ", expected F32, BF16, F16 or F64");
  check(static_cast<int64_t>(out.size()) == entry.numel, what, ": found ", entry.numel, " elements, expected ",
        out.size());
  if (out.empty()) return;
  if (entry.quantised) return dequantise(entry, out);
  if (const auto data = mapped(entry)) return convert_to_floats(what, *entry.dtype, *data, out);
  if (entry.dtype == DType::f32) return gather(entry, std::as_writable_bytes(out));
  std::vector<std::byte> elements(static_cast<size_t>(entry.numel * dtype_size(*entry.dtype)));
  gather(entry, elements);
  convert_to_floats(what, *entry.dtype, elements, out);
}

namespace {

template <class Bits>
bool has_all(Bits mask, const std::byte* at) {
  Bits bits;
  std::memcpy(&bits, at, sizeof(Bits));
  return static_cast<Bits>(bits & mask) == mask;
}

// Elements whose exponent (the bits of `mask`) is all ones are no finite numbers. Whether there is one is found at the
// speed of memory, since its place is not asked for on the way.
template <class Bits>
int64_t first_with_all(Bits mask, std::span<const std::byte> bytes) {
  constexpr auto kSize = static_cast<int64_t>(sizeof(Bits));
  const auto count = static_cast<int64_t>(bytes.size() / sizeof(Bits));
  const std::byte* from = bytes.data();
  Bits found = 0;
#pragma omp parallel for schedule(static) reduction(| : found) if (count >= kParallelElements)
  for (int64_t i = 0; i < count; ++i) {
    found = static_cast<Bits>(found | (has_all<Bits>(mask, from + i * kSize) ? 1 : 0));
  }
  for (int64_t i = 0; found != 0; ++i) {
    if (has_all<Bits>(mask, from + i * kSize)) return i;
  }
  return -1;
}

}  // namespace

int64_t first_not_finite(DType dtype, std::span<const std::byte> bytes) {
  switch (dtype) {
    case DType::f32:
      return first_with_all<uint32_t>(0x7f800000U, bytes);
    case DType::bf16:
      return first_with_all<uint16_t>(0x7f80U, bytes);
    case DType::f16:
      return first_with_all<uint16_t>(0x7c00U, bytes);
    case DType::f64:
      return first_with_all<uint64_t>(0x7ff0000000000000U, bytes);
    default:
      fail("[tensor] found dtype ", dtype_name(dtype), ", expected f32, bf16, f16 or f64");
  }
}

float half_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fU;
  const uint32_t fraction = bits & 0x3ffU;
  if (exponent == 0) {  // zero and subnormal: fraction * 2^-24, exact in float
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  const uint32_t wide = exponent == 31 ? 255U : exponent + 112U;
  return std::bit_cast<float>(sign | (wide << 23) | (fraction << 13));
}

uint16_t float_to_half(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000U);
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<uint16_t>(sign | 0x7e00U);   // NaN
  if (magnitude >= 0x477ff000U) return static_cast<uint16_t>(sign | 0x7c00U);  // 65520 and more round to infinity
  if (magnitude < 0x38800000U) {
    // Below 2^-14 the result is a multiple of 2^-24, and the addition of 0.5 rounds to one: its ulp is 2^-24.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000U));
  }
  const uint32_t rounded = magnitude + 0xfffU + ((magnitude >> 13) & 1U);
  return static_cast<uint16_t>(sign | ((rounded >> 13) - (112U << 10)));
}

int64_t multiply_sizes(int64_t size, int64_t factor, const std::string& where) {
  int64_t product = 0;
  if (__builtin_mul_overflow(size, factor, &product)) {
    fail(where, ": found a shape whose size overflows 64 bits, expected less");
  }
  return product;
}

void convert_to_floats(const std::string& what, DType dtype, std::span<const std::byte> bytes, std::span<float> out) {
  const auto count = static_cast<int64_t>(bytes.size()) / dtype_size(dtype);
  check(count == static_cast<int64_t>(out.size()), what, ": found ", count, " elements, expected ", out.size());
  switch (dtype) {
    case DType::f32:
      if (!bytes.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
      return;
    case DType::bf16:
      return convert_elements<bf16>(bytes, out);
    case DType::f16:
      return convert_elements<Half>(bytes, out);
    case DType::f64:
      return convert_elements<double>(bytes, out);
    default:
      fail(what, ": found dtype ", dtype_name(dtype), ", expected f32, bf16, f16 or f64");
  }
}

}  // namespace matvlm
