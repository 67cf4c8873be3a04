// Counter-based random numbers (Philox 4x32-10, Salmon et al. 2011): a number is a function of (seed, stream, index),
// so it does not depend on call order, thread, rank or device: what is constexpr is for kernels, too.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

namespace matvlm {

constexpr std::array<uint32_t, 4> philox4x32(uint64_t key, uint64_t counter_high, uint64_t counter_low) {
  std::array<uint32_t, 4> c = {static_cast<uint32_t>(counter_low), static_cast<uint32_t>(counter_low >> 32),
                               static_cast<uint32_t>(counter_high), static_cast<uint32_t>(counter_high >> 32)};
  auto k0 = static_cast<uint32_t>(key);
  auto k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53ULL * c[0];
    const uint64_t p1 = 0xCD9E8D57ULL * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  return c;
}

// 64-bit FNV-1a: names a random stream after a tensor or a purpose.
constexpr uint64_t stream_of(std::string_view name) {
  uint64_t h = 0xcbf29ce484222325ULL;
  for (const char ch : name) h = (h ^ static_cast<uint8_t>(ch)) * 0x100000001b3ULL;
  return h;
}

// Random numbers of one stream, addressed by index.
struct Rng {
  uint64_t seed = 0;
  uint64_t stream = 0;

  constexpr uint64_t bits(uint64_t index) const {
    const auto r = philox4x32(seed, stream, index);
    return (static_cast<uint64_t>(r[1]) << 32) | r[0];
  }
  // Uniform in [0, 1), 53 bits.
  constexpr double uniform(uint64_t index) const { return static_cast<double>(bits(index) >> 11) * 0x1.0p-53; }
  double uniform(uint64_t index, double low, double high) const { return low + (high - low) * uniform(index); }
  // Standard normal by Box-Muller, one per index.
  double normal(uint64_t index) const {
    const auto r = philox4x32(seed, stream, index);
    const double u1 = (((static_cast<uint64_t>(r[1]) << 32) | r[0]) >> 11) * 0x1.0p-53;
    const double u2 = (((static_cast<uint64_t>(r[3]) << 32) | r[2]) >> 11) * 0x1.0p-53;
    return std::sqrt(-2.0 * std::log(1.0 - u1)) * std::cos(2.0 * std::numbers::pi * u2);
  }
  // Uniform integer in [0, n), n > 0. The bias of 2^-64 * n is far below anything observable.
  uint64_t below(uint64_t index, uint64_t n) const {
    __extension__ using Wide = unsigned __int128;
    return static_cast<uint64_t>((static_cast<Wide>(bits(index)) * n) >> 64);
  }
};

}  // namespace matvlm
