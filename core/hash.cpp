// XXH64 after its specification: four lanes over stripes of 32 bytes, merged, then the tail in 8, 4 and 1 bytes.
#include "core/hash.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/file.h"

namespace matvlm {
namespace {

static_assert(std::endian::native == std::endian::little, "words are read in the machine's order");

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87ULL;
constexpr uint64_t kPrime2 = 0xC2B2AE3D27D4EB4FULL;
constexpr uint64_t kPrime3 = 0x165667B19E3779F9ULL;
constexpr uint64_t kPrime4 = 0x85EBCA77C2B2AE63ULL;
constexpr uint64_t kPrime5 = 0x27D4EB2F165667C5ULL;
constexpr uint64_t kSecondSeed = 0x6D617476'6C6D3132ULL;  // of the upper half of Hash128
constexpr size_t kStripe = 32;

template <class Word>
Word load(const std::byte* bytes) {
  Word word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

uint64_t round(uint64_t lane, uint64_t word) { return std::rotl(lane + word * kPrime2, 31) * kPrime1; }

void take_stripe(std::array<uint64_t, 4>& lanes, const std::byte* bytes) {
  for (size_t i = 0; i < 4; ++i) lanes[i] = round(lanes[i], load<uint64_t>(bytes + 8 * i));
}

uint64_t avalanche(uint64_t h) {
  h = (h ^ (h >> 33)) * kPrime2;
  h = (h ^ (h >> 29)) * kPrime3;
  return h ^ (h >> 32);
}

}  // namespace

Hasher::Hasher(uint64_t seed) : lanes_{seed + kPrime1 + kPrime2, seed + kPrime2, seed, seed - kPrime1}, seed_(seed) {}

void Hasher::update(std::span<const std::byte> bytes) {
  total_ += bytes.size();
  if (pending_size_ > 0) {
    const size_t taken = std::min(kStripe - pending_size_, bytes.size());
    std::copy_n(bytes.begin(), taken, pending_.begin() + static_cast<std::ptrdiff_t>(pending_size_));
    pending_size_ += taken;
    bytes = bytes.subspan(taken);
    if (pending_size_ < kStripe) return;
    take_stripe(lanes_, pending_.data());
    pending_size_ = 0;
  }
  while (bytes.size() >= kStripe) {
    take_stripe(lanes_, bytes.data());
    bytes = bytes.subspan(kStripe);
  }
  std::copy(bytes.begin(), bytes.end(), pending_.begin());
  pending_size_ = bytes.size();
}

uint64_t Hasher::digest() const {
  uint64_t h = seed_ + kPrime5;
  if (total_ >= kStripe) {
    h = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) + std::rotl(lanes_[3], 18);
    for (const uint64_t lane : lanes_) h = (h ^ round(0, lane)) * kPrime1 + kPrime4;
  }
  h += total_;
  size_t i = 0;
  for (; i + 8 <= pending_size_; i += 8) {
    h = std::rotl(h ^ round(0, load<uint64_t>(&pending_[i])), 27) * kPrime1 + kPrime4;
  }
  for (; i + 4 <= pending_size_; i += 4) {
    h = std::rotl(h ^ (load<uint32_t>(&pending_[i]) * kPrime1), 23) * kPrime2 + kPrime3;
  }
  for (; i < pending_size_; ++i) h = std::rotl(h ^ (static_cast<uint64_t>(pending_[i]) * kPrime5), 11) * kPrime1;
  return avalanche(h);
}

std::string hex(uint64_t value) {
  std::string text(16, '0');
  for (size_t i = 16; i-- > 0; value >>= 4) text[i] = "0123456789abcdef"[value & 15];
  return text;
}

std::string Hash128::hex() const { return matvlm::hex(high) + matvlm::hex(low); }

uint64_t hash64(std::span<const std::byte> bytes, uint64_t seed) {
  Hasher hasher(seed);
  hasher.update(bytes);
  return hasher.digest();
}

uint64_t hash64(std::string_view text, uint64_t seed) {
  return hash64(std::as_bytes(std::span<const char>(text.data(), text.size())), seed);
}

Hash128 hash128(std::span<const std::byte> bytes) { return {hash64(bytes, kSecondSeed), hash64(bytes, 0)}; }

Hash128 hash128(std::string_view text) { return {hash64(text, kSecondSeed), hash64(text, 0)}; }

Hash128 hash_file(const std::string& path) { return hash128(MappedFile(path).bytes()); }

}  // namespace matvlm
