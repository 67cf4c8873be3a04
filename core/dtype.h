// Element types of tensors and files, and the host representation of bfloat16.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

#if defined(__CUDACC__)
#define MATVLM_HOST_DEVICE __host__ __device__
#else
#define MATVLM_HOST_DEVICE
#endif

namespace matvlm {

enum class DType { f32, bf16, f64, f16, i32, i64, i16, i8, u8, boolean };

// Bytes of one element.
constexpr int64_t dtype_size(DType t) {
  switch (t) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
    case DType::i16:
      return 2;
    case DType::i8:
    case DType::u8:
    case DType::boolean:
      return 1;
  }
  return 0;
}

// "f32", "bf16", ... as printed in messages and written in configs.
constexpr std::string_view dtype_name(DType t) {
  switch (t) {
    case DType::f64:
      return "f64";
    case DType::i64:
      return "i64";
    case DType::f32:
      return "f32";
    case DType::i32:
      return "i32";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "f16";
    case DType::i16:
      return "i16";
    case DType::i8:
      return "i8";
    case DType::u8:
      return "u8";
    case DType::boolean:
      return "bool";
  }
  return "?";
}

// bfloat16 by its bits; the same layout as __nv_bfloat16. Conversion from float rounds to nearest even, NaN stays NaN.
struct bf16 {
  uint16_t bits = 0;
  bf16() = default;
  MATVLM_HOST_DEVICE explicit bf16(float x) {
    const auto u = std::bit_cast<uint32_t>(x);
    const bool nan = (u & 0x7fffffffU) > 0x7f800000U;
    bits =
        nan ? static_cast<uint16_t>((u >> 16) | 0x40U) : static_cast<uint16_t>((u + 0x7fffU + ((u >> 16) & 1U)) >> 16);
  }
  MATVLM_HOST_DEVICE explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct DTypeOf<int16_t> {
  static constexpr DType value = DType::i16;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::u8;
};

template <class T>
inline constexpr DType kDType = DTypeOf<T>::value;

}  // namespace matvlm
