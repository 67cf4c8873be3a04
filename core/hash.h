// Content hashes for fingerprints of files, tensors and configs: the 64-bit xxHash algorithm (XXH64, as its public
// specification gives it) and a 128-bit value of two of them. Fast and the same on every machine; against accidents,
// not against forgers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace matvlm {

// Streaming XXH64: any division of the same bytes into updates gives the same digest.
class Hasher {
 public:
  explicit Hasher(uint64_t seed = 0);
  void update(std::span<const std::byte> bytes);
  uint64_t digest() const;

 private:
  std::array<uint64_t, 4> lanes_;
  std::array<std::byte, 32> pending_{};
  size_t pending_size_ = 0;
  uint64_t total_ = 0;
  uint64_t seed_;
};

struct Hash128 {
  uint64_t high = 0;
  uint64_t low = 0;
  bool operator==(const Hash128&) const = default;
  std::string hex() const;  // 32 digits
};

uint64_t hash64(std::span<const std::byte> bytes, uint64_t seed = 0);
uint64_t hash64(std::string_view text, uint64_t seed = 0);
Hash128 hash128(std::span<const std::byte> bytes);
Hash128 hash128(std::string_view text);
template <class T>
requires std::is_trivially_copyable_v<T> Hash128 hash128_of(std::span<const T> values) {
  return hash128(std::as_bytes(values));
}
Hash128 hash_file(const std::string& path);

std::string hex(uint64_t value);  // 16 digits

}  // namespace matvlm
