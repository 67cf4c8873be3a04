// Dequantisation of GGUF blocks. The layouts are facts of the format: low half of a block's values in the low nibbles,
// high half in the high ones; fifth and sixth bits in fields of their own.
#include "core/gguf_blocks.h"

#include <array>
#include <cstring>
#include <string_view>

#include "core/error.h"
#include "core/tensor_file.h"

namespace matvlm {
namespace {

constexpr int kHalfBlock = 16;  // of 32 values

float half_at(const std::byte* p) {
  uint16_t bits = 0;
  std::memcpy(&bits, p, sizeof(bits));
  return half_to_float(bits);
}
int byte_at(const std::byte* p) { return static_cast<int>(*p); }
int signed_at(const std::byte* p) { return static_cast<int8_t>(*p); }

// d | 16 bytes of nibbles; value = d * (q - 8)
void dequantise_q4_0(const std::byte* block, float* out) {
  const float d = half_at(block);
  for (int i = 0; i < kHalfBlock; ++i) {
    const int pair = byte_at(block + 2 + i);
    out[i] = static_cast<float>((pair & 15) - 8) * d;
    out[i + kHalfBlock] = static_cast<float>((pair >> 4) - 8) * d;
  }
}

// d | m | 16 bytes of nibbles; value = d * q + m
void dequantise_q4_1(const std::byte* block, float* out) {
  const float d = half_at(block);
  const float m = half_at(block + 2);
  for (int i = 0; i < kHalfBlock; ++i) {
    const int pair = byte_at(block + 4 + i);
    out[i] = static_cast<float>(pair & 15) * d + m;
    out[i + kHalfBlock] = static_cast<float>(pair >> 4) * d + m;
  }
}

uint32_t word_at(const std::byte* p) {
  uint32_t word = 0;
  std::memcpy(&word, p, sizeof(word));
  return word;
}
int fifth_bit(uint32_t bits, int i) { return static_cast<int>((bits >> i) & 1U) << 4; }

// d | 32 fifth bits | 16 bytes of nibbles; value = d * (q - 16)
void dequantise_q5_0(const std::byte* block, float* out) {
  const float d = half_at(block);
  const uint32_t high = word_at(block + 2);
  for (int i = 0; i < kHalfBlock; ++i) {
    const int pair = byte_at(block + 6 + i);
    out[i] = static_cast<float>(((pair & 15) | fifth_bit(high, i)) - 16) * d;
    out[i + kHalfBlock] = static_cast<float>(((pair >> 4) | fifth_bit(high, i + kHalfBlock)) - 16) * d;
  }
}

// d | m | 32 fifth bits | 16 bytes of nibbles; value = d * q + m
void dequantise_q5_1(const std::byte* block, float* out) {
  const float d = half_at(block);
  const float m = half_at(block + 2);
  const uint32_t high = word_at(block + 4);
  for (int i = 0; i < kHalfBlock; ++i) {
    const int pair = byte_at(block + 8 + i);
    out[i] = static_cast<float>((pair & 15) | fifth_bit(high, i)) * d + m;
    out[i + kHalfBlock] = static_cast<float>((pair >> 4) | fifth_bit(high, i + kHalfBlock)) * d + m;
  }
}

// d | 32 signed bytes; value = d * q
void dequantise_q8_0(const std::byte* block, float* out) {
  const float d = half_at(block);
  for (int i = 0; i < 2 * kHalfBlock; ++i) out[i] = static_cast<float>(signed_at(block + 2 + i)) * d;
}

// d | dmin | 12 bytes with 8 pairs of 6-bit (scale, min) | 128 bytes of nibbles. Each run of 32 values has a pair, each
// run of 32 bytes the nibbles of two of them; value = d * scale * q - dmin * min
void dequantise_q4_k(const std::byte* block, float* out) {
  const float d = half_at(block);
  const float dmin = half_at(block + 2);
  const std::byte* pairs = block + 4;
  const std::byte* nibbles = block + 16;
  for (int run = 0; run < 8; ++run) {
    int scale = 0;
    int min = 0;
    if (run < 4) {
      scale = byte_at(pairs + run) & 63;
      min = byte_at(pairs + run + 4) & 63;
    } else {  // low four bits in the last bytes, high two in the unused bits of the first eight
      scale = (byte_at(pairs + run + 4) & 15) | (byte_at(pairs + run - 4) >> 6) << 4;
      min = (byte_at(pairs + run + 4) >> 4) | (byte_at(pairs + run) >> 6) << 4;
    }
    const float step = d * static_cast<float>(scale);
    const float shift = dmin * static_cast<float>(min);
    const std::byte* from = nibbles + run / 2 * 32;
    const int down = run % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      out[run * 32 + i] = step * static_cast<float>((byte_at(from + i) >> down) & 15) - shift;
    }
  }
}

// 128 bytes of nibbles | 64 bytes of upper bit pairs | 16 signed scales | d. Each half block of 128 values is four runs
// of 32: nibbles of bytes 0..31 and 32..63 low, then the same high; value = d * scale * (q - 32), a scale for 16 values
void dequantise_q6_k(const std::byte* block, float* out) {
  const float d = half_at(block + 208);
  for (int half = 0; half < 2; ++half) {
    const std::byte* low = block + half * 64;
    const std::byte* high = block + 128 + half * 32;
    const std::byte* scales = block + 192 + half * 8;
    for (int run = 0; run < 4; ++run) {
      const std::byte* nibbles = low + run % 2 * 32;
      const int down = run / 2 * 4;
      for (int i = 0; i < 32; ++i) {
        const int q = ((byte_at(nibbles + i) >> down) & 15) | ((byte_at(high + i) >> (2 * run)) & 3) << 4;
        const float step = d * static_cast<float>(signed_at(scales + run * 2 + i / 16));
        out[half * 128 + run * 32 + i] = step * static_cast<float>(q - 32);
      }
    }
  }
}

constexpr std::array<GgufType, 15> kTypes = {{
    {0, "F32", 1, 4, DType::f32, nullptr},
    {1, "F16", 1, 2, DType::f16, nullptr},
    {2, "Q4_0", 32, 18, std::nullopt, dequantise_q4_0},
    {3, "Q4_1", 32, 20, std::nullopt, dequantise_q4_1},
    {6, "Q5_0", 32, 22, std::nullopt, dequantise_q5_0},
    {7, "Q5_1", 32, 24, std::nullopt, dequantise_q5_1},
    {8, "Q8_0", 32, 34, std::nullopt, dequantise_q8_0},
    {12, "Q4_K", 256, 144, std::nullopt, dequantise_q4_k},
    {14, "Q6_K", 256, 210, std::nullopt, dequantise_q6_k},
    {24, "I8", 1, 1, DType::i8, nullptr},
    {25, "I16", 1, 2, DType::i16, nullptr},
    {26, "I32", 1, 4, DType::i32, nullptr},
    {27, "I64", 1, 8, DType::i64, nullptr},
    {28, "F64", 1, 8, DType::f64, nullptr},
    {30, "BF16", 1, 2, DType::bf16, nullptr},
}};

}  // namespace

const GgufType* find_gguf_type(uint32_t id) {
  for (const GgufType& type : kTypes) {
    if (type.id == id) return &type;
  }
  return nullptr;
}

const GgufType* find_gguf_type(const char* name) {
  for (const GgufType& type : kTypes) {
    if (std::string_view(type.name) == name) return &type;
  }
  return nullptr;
}

void dequantise_blocks(const GgufType& type, std::span<const std::byte> in, std::span<float> out) {
  const auto blocks = static_cast<int64_t>(in.size()) / type.bytes;
  check(type.dequantise != nullptr && static_cast<int64_t>(out.size()) == blocks * type.block, "[gguf] found ",
        out.size(), " values, expected ", blocks, " blocks of ", type.block, " in type ", type.name);
  const std::byte* from = in.data();
  float* to = out.data();
#pragma omp parallel for schedule(static) if (blocks >= 1024)
  for (int64_t i = 0; i < blocks; ++i) type.dequantise(from + i * type.bytes, to + i * type.block);
}

}  // namespace matvlm
