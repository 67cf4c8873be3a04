// SHA-256 over whole buffers. The round constants are derived where they are used for the first time, as the standard
// defines them: the first 32 fractional bits of the cube roots of the first 64 primes.
#include "data/sha256.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstring>

namespace matvlm {
namespace {

__extension__ using Wide = unsigned __int128;

// floor(2^32 * root_k(prime)) mod 2^32, exactly, by bisection on integers (k = 2 or 3).
uint32_t fractional_root_bits(uint64_t prime, int k) {
  uint64_t low = 0;
  uint64_t high = uint64_t{1} << 37U;  // roots below 32
  while (high - low > 1) {
    const uint64_t middle = (low + high) / 2;
    // middle^k <= prime * 2^(32 k), with the cube compared as middle^2 <= prime * 2^96 / middle.
    const Wide square = static_cast<Wide>(middle) * middle;
    const bool below =
        k == 2 ? square <= (static_cast<Wide>(prime) << 64U) : square <= ((static_cast<Wide>(prime) << 96U) / middle);
    (below ? low : high) = middle;
  }
  return static_cast<uint32_t>(low);
}

struct Constants {
  std::array<uint32_t, 64> rounds{};
  std::array<uint32_t, 8> start{};
  Constants() {
    size_t n = 0;
    for (uint64_t candidate = 2; n < rounds.size(); ++candidate) {
      bool prime = true;
      for (uint64_t d = 2; d * d <= candidate; ++d) prime = prime && candidate % d != 0;
      if (!prime) continue;
      rounds[n] = fractional_root_bits(candidate, 3);
      if (n < start.size()) start[n] = fractional_root_bits(candidate, 2);
      ++n;
    }
  }
};

const Constants& constants() {
  static const Constants values;
  return values;
}

void compress(std::array<uint32_t, 8>& state, const uint8_t* block) {
  std::array<uint32_t, 64> w;
  for (size_t i = 0; i < 16; ++i) {
    w[i] = static_cast<uint32_t>(block[4 * i]) << 24U | static_cast<uint32_t>(block[4 * i + 1]) << 16U |
           static_cast<uint32_t>(block[4 * i + 2]) << 8U | block[4 * i + 3];
  }
  for (size_t i = 16; i < 64; ++i) {
    const uint32_t a = w[i - 15];
    const uint32_t b = w[i - 2];
    w[i] = w[i - 16] + w[i - 7] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ (a >> 3U)) +
           (std::rotr(b, 17) ^ std::rotr(b, 19) ^ (b >> 10U));
  }
  auto [a, b, c, d, e, f, g, h] = state;
  for (size_t i = 0; i < 64; ++i) {
    const uint32_t choose = (e & f) ^ (~e & g);
    const uint32_t t1 =
        h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + choose + constants().rounds[i] + w[i];
    const uint32_t majority = (a & b) ^ (a & c) ^ (b & c);
    const uint32_t t2 = (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + majority;
    h = g;
    g = f;
    f = e;
    e = d + t1;
    d = c;
    c = b;
    b = a;
    a = t1 + t2;
  }
  const std::array<uint32_t, 8> change = {a, b, c, d, e, f, g, h};
  for (size_t i = 0; i < 8; ++i) state[i] += change[i];
}

}  // namespace

std::string sha256(std::span<const uint8_t> bytes) {
  std::array<uint32_t, 8> state = constants().start;
  size_t at = 0;
  for (; at + 64 <= bytes.size(); at += 64) compress(state, bytes.data() + at);
  std::array<uint8_t, 128> tail{};
  const size_t rest = bytes.size() - at;
  if (rest > 0) std::memcpy(tail.data(), bytes.data() + at, rest);
  tail[rest] = 0x80;
  const size_t blocks = rest + 9 <= 64 ? 1 : 2;
  const uint64_t bits = static_cast<uint64_t>(bytes.size()) * 8;
  for (size_t i = 0; i < 8; ++i) tail[blocks * 64 - 1 - i] = static_cast<uint8_t>(bits >> (8 * i));
  for (size_t i = 0; i < blocks; ++i) compress(state, tail.data() + 64 * i);
  std::string out;
  for (const uint32_t word : state) {
    for (int shift = 28; shift >= 0; shift -= 4) out.push_back("0123456789abcdef"[(word >> shift) & 0xFU]);
  }
  return out;
}

std::string sha256(std::string_view text) {
  return sha256(std::span<const uint8_t>(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
}

}  // namespace matvlm
