// When work is recorded, replayed and forgotten.
#include <gtest/gtest.h>

#include "distill/repeat_cache.h"

namespace matvlm {
namespace {

using Cache = RepeatCache<int>;
using Action = Cache::Action;

TEST(RepeatCache, SecondTimeRecordsLaterTimesReplay) {
  Cache cache(100, 10, 10);
  EXPECT_EQ(cache.next({1, 2}), Action::run);
  EXPECT_EQ(cache.next({1, 3}), Action::run);
  EXPECT_EQ(cache.next({1, 2}), Action::record);
  cache.put({1, 2}, 12, 1);
  EXPECT_EQ(cache.next({1, 2}), Action::replay);
  EXPECT_EQ(cache.at({1, 2}), 12);
  // Another key is another piece of work, also where one is the beginning of the other.
  EXPECT_EQ(cache.next({1}), Action::run);
  EXPECT_EQ(cache.next({1, 2, 0}), Action::run);
  EXPECT_EQ(cache.next({1, 3}), Action::record);
  cache.put({1, 3}, 13, 1);
  EXPECT_EQ(cache.at({1, 2}), 12);
  EXPECT_EQ(cache.at({1, 3}), 13);
  EXPECT_EQ(cache.records(), 2);
  EXPECT_EQ(cache.replays(), 1);
}

TEST(RepeatCache, TheLeastRecentlyUsedGoesWhenTheCostIsTooHigh) {
  Cache cache(10, 10, 10);
  for (int64_t key = 0; key < 3; ++key) {
    EXPECT_EQ(cache.next({key}), Action::run);
    EXPECT_EQ(cache.next({key}), Action::record);
    cache.put({key}, static_cast<int>(key), 3);
  }
  EXPECT_EQ(cache.next({0}), Action::replay);
  EXPECT_EQ(cache.next({9}), Action::run);
  EXPECT_EQ(cache.next({9}), Action::record);
  cache.put({9}, 9, 4);  // 13 in all: 1 goes, which was used before 0
  EXPECT_EQ(cache.cost(), 10);
  EXPECT_EQ(cache.next({0}), Action::replay);
  EXPECT_EQ(cache.next({2}), Action::replay);
  EXPECT_EQ(cache.next({1}), Action::run);
  EXPECT_EQ(cache.next({1}), Action::record);
  cache.put({1}, 1, 50);  // too much for anything else, but it stays
  EXPECT_EQ(cache.size(), 1U);
  EXPECT_EQ(cache.next({1}), Action::replay);
}

TEST(RepeatCache, KeysThatCameOnceAreForgottenInTime) {
  Cache cache(10, 2, 10);
  EXPECT_EQ(cache.next({1}), Action::run);
  EXPECT_EQ(cache.next({2}), Action::run);
  EXPECT_EQ(cache.next({3}), Action::run);  // forgets 1
  EXPECT_EQ(cache.next({2}), Action::record);
  EXPECT_EQ(cache.next({1}), Action::run);
}

TEST(RepeatCache, BeyondTheFreeOnesRecordingsArePaidForByReplays) {
  Cache cache(100, 10, 1);
  const auto see = [&](int64_t key) {
    const Action action = cache.next({key});
    if (action == Action::record) cache.put({key}, 0, 1);
    return action;
  };
  for (int64_t key = 0; key < 3; ++key) EXPECT_EQ(see(key), Action::run);
  EXPECT_EQ(see(0), Action::record);
  EXPECT_EQ(see(1), Action::run);
  EXPECT_EQ(see(0), Action::replay);
  EXPECT_EQ(see(1), Action::record);
  EXPECT_EQ(see(2), Action::run);
}

TEST(RepeatCache, ClearForgetsTheEntriesButNotTheKeys) {
  Cache cache(100, 10, 10);
  EXPECT_EQ(cache.next({1}), Action::run);
  EXPECT_EQ(cache.next({1}), Action::record);
  cache.put({1}, 1, 5);
  cache.clear();
  EXPECT_EQ(cache.size(), 0U);
  EXPECT_EQ(cache.cost(), 0);
  EXPECT_EQ(cache.next({1}), Action::run);
  EXPECT_EQ(cache.next({1}), Action::record);
}

}  // namespace
}  // namespace matvlm
