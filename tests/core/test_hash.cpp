// Hashes: vectors computed with the public xxHash tool, streaming against one shot, files.
#include "core/hash.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "core/file.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

std::string pattern(size_t size) {
  std::string text(size, '\0');
  for (size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 7 + 3);
  return text;
}

TEST(Hash, MatchesThePublicVectors) {
  EXPECT_EQ(hash64(""), 0xef46db3751d8e999ULL);
  EXPECT_EQ(hash64("a"), 0xd24ec4f1a98c6e5bULL);
  EXPECT_EQ(hash64("abc"), 0x44bc2cf5ad770999ULL);
  EXPECT_EQ(hash64(pattern(4), 0ULL), 0x9bb64b7d66ee9fdaULL);
  EXPECT_EQ(hash64(pattern(8), 0ULL), 0xdab99d95c6f90092ULL);
  EXPECT_EQ(hash64(pattern(31), 0ULL), 0xa2aa5f33cc4a6119ULL);
  EXPECT_EQ(hash64(pattern(32), 0ULL), 0x23c3c17ef790fd97ULL);
  EXPECT_EQ(hash64(pattern(33), 7ULL), 0x97e8c13707136565ULL);
  EXPECT_EQ(hash64(pattern(63), 0ULL), 0x5e3e54b431c7493cULL);
  EXPECT_EQ(hash64(pattern(100), 1ULL), 0x8d8957e68f02c7ceULL);
  EXPECT_EQ(hash64(pattern(1000), 12345678901234567ULL), 0x8b1d59e4688fc8c4ULL);
}

TEST(Hash, StreamingEqualsOneShot) {
  const std::string text = pattern(1000);
  const auto bytes = std::as_bytes(std::span<const char>(text.data(), text.size()));
  for (const size_t step : {1, 3, 8, 31, 32, 33, 64, 999}) {
    Hasher hasher;
    for (size_t i = 0; i < bytes.size(); i += step) hasher.update(bytes.subspan(i, std::min(step, bytes.size() - i)));
    EXPECT_EQ(hasher.digest(), hash64(text)) << step;
  }
}

TEST(Hash, EveryBitAndLengthMatters) {
  std::set<std::string> seen;
  std::string text(70, '\0');
  for (size_t bit = 0; bit < 8 * text.size(); ++bit) {
    text[bit / 8] = static_cast<char>(1 << (bit % 8));
    EXPECT_TRUE(seen.insert(hash128(text).hex()).second) << bit;
    text[bit / 8] = 0;
  }
  for (size_t size = 0; size <= text.size(); ++size)
    EXPECT_TRUE(seen.insert(hash128(text.substr(0, size)).hex()).second);
}

TEST(Hash, HexAndFiles) {
  EXPECT_EQ(hex(0x00ab), "00000000000000ab");
  const testing::TempDir folder;
  write_file_atomic(folder.file("f"), "abc");
  EXPECT_EQ(hash_file(folder.file("f")), hash128("abc"));
  EXPECT_EQ(hash_file(folder.file("f")).hex().substr(16), "44bc2cf5ad770999");
  const std::vector<float> values = {1.0F, 2.0F};
  EXPECT_EQ(hash128_of(std::span<const float>(values)).low, hash64(std::as_bytes(std::span<const float>(values))));
}

}  // namespace
}  // namespace matvlm
