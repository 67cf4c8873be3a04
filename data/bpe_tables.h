// Two read-mostly hash tables with open addressing, on which the speed of encoding depends: merges by pair of ids, and
// tokens by their bytes.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace matvlm {

struct BpeMerge {
  int32_t rank = 0;
  int32_t id = 0;  // of the merged token
};

class MergeTable {
 public:
  // A pair that is there already gets the new merge.
  void insert(int32_t left, int32_t right, const BpeMerge& merge);
  // The merge of the pair, or nullptr; valid until the next insert.
  const BpeMerge* find(int32_t left, int32_t right) const {
    if (entries_.empty()) return nullptr;
    const uint64_t key = key_of(left, right);
    for (size_t at = place(key);; at = (at + 1) & (entries_.size() - 1)) {
      if (entries_[at].key == key) return &entries_[at].merge;
      if (entries_[at].key == kEmpty) return nullptr;
    }
  }

 private:
  struct Entry {
    uint64_t key;
    BpeMerge merge;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};  // no pair of ids from 0 on
  static uint64_t key_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32U | static_cast<uint32_t>(right);
  }
  size_t place(uint64_t key) const {
    const uint64_t mixed = (key ^ key >> 29U) * 0x9E3779B97F4A7C15U;
    return static_cast<size_t>(mixed >> 20U) & (entries_.size() - 1);
  }
  void grow();

  std::vector<Entry> entries_;  // a power of two, at most half used
  size_t used_ = 0;
};

class WordTable {
 public:
  // The first id of equal words stays.
  void insert(std::string_view word, int32_t id);
  int32_t find(std::string_view word) const {  // -1 when it is not there
    if (entries_.empty()) return -1;
    const uint64_t hash = hash_of(word);
    for (size_t at = static_cast<size_t>(hash) & (entries_.size() - 1);; at = (at + 1) & (entries_.size() - 1)) {
      const Entry& entry = entries_[at];
      if (entry.id < 0) return -1;
      if (entry.hash == hash && entry.size == word.size() &&
          std::memcmp(bytes_.data() + entry.begin, word.data(), word.size()) == 0) {
        return entry.id;
      }
    }
  }

 private:
  struct Entry {
    uint64_t hash = 0;
    uint64_t begin = 0;  // in bytes_
    uint32_t size = 0;
    int32_t id = -1;
  };
  static uint64_t hash_of(std::string_view word) {
    uint64_t hash = word.size();
    const char* at = word.data();
    size_t left = word.size();
    const auto mix = [&hash](uint64_t part) {
      hash = (hash ^ part) * 0x9E3779B97F4A7C15U;
      hash ^= hash >> 32U;
    };
    for (; left >= 8; left -= 8, at += 8) {
      uint64_t part = 0;
      std::memcpy(&part, at, 8);
      mix(part);
    }
    uint64_t part = 0;
    std::memcpy(&part, at, left);
    mix(part);
    return hash;
  }
  void grow();

  std::vector<Entry> entries_;
  std::string bytes_;
  size_t used_ = 0;
};

}  // namespace matvlm
