// Which pieces of work are worth recording: those whose shapes come again. Counting only; what an entry is, and how it
// is recorded, is the caller's.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "core/error.h"

namespace matvlm {

template <class Entry>
class RepeatCache {
 public:
  using Key = std::vector<int64_t>;
  enum class Action {
    run,     // not seen lately, or recording does not pay: run it as it is
    record,  // seen before: record it and put() the entry
    replay,  // there is an entry
  };

  // most_cost: of all entries together; the least recently used go first, but one always stays. most_seen: keys without
  // an entry that are remembered. free_records: recordings that need not have been paid for, see next().
  RepeatCache(int64_t most_cost, size_t most_seen, int64_t free_records)
      : most_cost_(most_cost), most_seen_(most_seen), free_records_(free_records) {}

  // What to do with work of this key now. A recording costs about as much as a run and pays off when it is replayed:
  // beyond the free ones there may be one for each replay so far, so that lengths which repeat too seldom to profit
  // cost little.
  Action next(const Key& key) {
    ++clock_;
    const auto found = entries_.find(key);
    if (found != entries_.end()) {
      found->second.used = clock_;
      ++replays_;
      return Action::replay;
    }
    const auto [seen, is_new] = seen_.try_emplace(key, clock_);
    seen->second = clock_;
    if (is_new) {
      if (seen_.size() > most_seen_) seen_.erase(oldest(seen_, [](int64_t used) { return used; }));
      return Action::run;
    }
    return records_ < free_records_ + replays_ ? Action::record : Action::run;
  }
  // Of a key that is to be replayed.
  Entry& at(const Key& key) {
    const auto found = entries_.find(key);
    check(found != entries_.end(), "[repeat_cache] no entry of this key");
    return found->second.entry;
  }
  void put(const Key& key, Entry entry, int64_t cost) {
    seen_.erase(key);
    ++records_;
    cost_ += cost;
    entries_.insert_or_assign(key, Kept{std::move(entry), cost, clock_});
    while (cost_ > most_cost_ && entries_.size() > 1) {
      const auto last = oldest(entries_, [](const Kept& kept) { return kept.used; });
      cost_ -= last->second.cost;
      entries_.erase(last);
    }
  }
  void clear() {
    entries_.clear();
    cost_ = 0;
  }

  size_t size() const { return entries_.size(); }
  int64_t cost() const { return cost_; }
  int64_t records() const { return records_; }
  int64_t replays() const { return replays_; }

 private:
  struct Kept {
    Entry entry;
    int64_t cost;
    int64_t used;
  };
  template <class Map, class Used>
  static auto oldest(Map& map, Used used) {
    auto found = map.begin();
    for (auto it = map.begin(); it != map.end(); ++it) {
      if (used(it->second) < used(found->second)) found = it;
    }
    return found;
  }
  int64_t most_cost_;
  size_t most_seen_;
  int64_t free_records_;
  std::map<Key, Kept> entries_;
  std::map<Key, int64_t> seen_;
  int64_t clock_ = 0, cost_ = 0, records_ = 0, replays_ = 0;
};

}  // namespace matvlm
