#include "data/bpe_tables.h"

#include <utility>

namespace matvlm {

void MergeTable::grow() {
  std::vector<Entry> old(entries_.empty() ? 1024 : 2 * entries_.size(), Entry{kEmpty, {}});
  old.swap(entries_);
  used_ = 0;
  for (const Entry& entry : old) {
    if (entry.key == kEmpty) continue;
    size_t at = place(entry.key);
    while (entries_[at].key != kEmpty) at = (at + 1) & (entries_.size() - 1);
    entries_[at] = entry;
    ++used_;
  }
}

void MergeTable::insert(int32_t left, int32_t right, const BpeMerge& merge) {
  if (2 * (used_ + 1) > entries_.size()) grow();
  const uint64_t key = key_of(left, right);
  size_t at = place(key);
  while (entries_[at].key != kEmpty && entries_[at].key != key) at = (at + 1) & (entries_.size() - 1);
  if (entries_[at].key == kEmpty) ++used_;
  entries_[at] = {key, merge};
}

void WordTable::grow() {
  std::vector<Entry> old(entries_.empty() ? 1024 : 2 * entries_.size());
  old.swap(entries_);
  for (const Entry& entry : old) {
    if (entry.id < 0) continue;
    size_t at = static_cast<size_t>(entry.hash) & (entries_.size() - 1);
    while (entries_[at].id >= 0) at = (at + 1) & (entries_.size() - 1);
    entries_[at] = entry;
  }
}

void WordTable::insert(std::string_view word, int32_t id) {
  if (find(word) >= 0) return;
  if (2 * (used_ + 1) > entries_.size()) grow();
  const uint64_t hash = hash_of(word);
  size_t at = static_cast<size_t>(hash) & (entries_.size() - 1);
  while (entries_[at].id >= 0) at = (at + 1) & (entries_.size() - 1);
  entries_[at] = {hash, bytes_.size(), static_cast<uint32_t>(word.size()), id};
  bytes_ += word;
  ++used_;
}

}  // namespace matvlm
