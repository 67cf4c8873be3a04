// The element types of GGUF tensors: plain ones, and blocks of 32 or 256 values that share scales.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "core/dtype.h"

namespace matvlm {

struct GgufType {
  uint32_t id;  // in the file
  const char* name;
  int64_t block;               // values
  int64_t bytes;               // of a block
  std::optional<DType> dtype;  // of plain types
  // Values of one block; none for plain types.
  void (*dequantise)(const std::byte* block, float* out);
};

// The type with that number or name; null for those that are not read.
const GgufType* find_gguf_type(uint32_t id);
const GgufType* find_gguf_type(const char* name);

// Blocks of a quantised type to values, on several threads. in.size() = blocks * type.bytes, out.size() = blocks *
// type.block.
void dequantise_blocks(const GgufType& type, std::span<const std::byte> in, std::span<float> out);

}  // namespace matvlm
