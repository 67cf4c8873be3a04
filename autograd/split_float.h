// A float32 in two halves and a bit: the bf16 nearest to it, which is what compute reads, the 16 bits behind those that
// bf16 keeps, and whether rounding went up, away from them. Exact for every bit pattern, both ways.
//
// The bit is not to be had for less. An even bf16 is what 65,537 floats round to, the two ties on its sides among them,
// an odd one what 65,535 do: 16 bits next to it cannot say which of its two ties it came from.
#pragma once

#include <bit>
#include <cstdint>

#include "core/dtype.h"

namespace matvlm {

struct SplitFloat {
  uint16_t high = 0;  // of bf16(x)
  uint16_t low = 0;   // of x
  bool up = false;    // high is not what x begins with, but the next larger magnitude; of a NaN: the same made quiet
};

inline MATVLM_HOST_DEVICE SplitFloat split_float(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const auto high = bf16(x).bits;
  return {high, static_cast<uint16_t>(bits), high != static_cast<uint16_t>(bits >> 16)};
}

inline MATVLM_HOST_DEVICE float join_float(const SplitFloat& s) {
  // One more carries from the largest finite numbers to infinity, never to a NaN: a NaN is one that was there.
  const uint32_t step = (s.high & 0x7fffU) > 0x7f80U ? 0x40U : 1U;
  const uint32_t high = s.high - (s.up ? step : 0U);
  return std::bit_cast<float>(high << 16 | s.low);
}

}  // namespace matvlm
