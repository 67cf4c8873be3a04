// What a long command says of itself, by a clock of the test's own.
#include "launch/progress.h"

#include <gtest/gtest.h>

namespace matvlm {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr ProgressText::Clock::time_point kStart{seconds(1000)};

PackProgress packed(int64_t samples, int64_t bytes) { return {samples, bytes, 4000000000}; }

TEST(Progress, LineEveryTenSeconds) {
  ProgressText text(false, kStart);
  EXPECT_EQ(text.at(packed(1, 1000), kStart), "");
  EXPECT_EQ(text.at(packed(9000, 90000000), kStart + milliseconds(9999)), "");
  EXPECT_EQ(text.at(packed(10001, 100001000), kStart + seconds(10)),
            "packing: 2.5 %  10001 samples  1000 samples/s  10 MB/s  6m 30s left");
  EXPECT_EQ(text.at(packed(19000, 190000000), kStart + seconds(19)), "");
  EXPECT_EQ(text.at(packed(100001, 1000001000), kStart + seconds(100)),
            "packing: 25.0 %  100001 samples  1000 samples/s  10 MB/s  5m 00s left");
}

// What an earlier call did is not counted as speed.
TEST(Progress, SpeedIsThatOfThisCall) {
  ProgressText text(false, kStart);
  EXPECT_EQ(text.at(packed(300000, 3000000000), kStart), "");
  EXPECT_EQ(text.at(packed(301000, 3010000000), kStart + seconds(10)),
            "packing: 75.2 %  301000 samples  100 samples/s  1 MB/s  16m 30s left");
}

TEST(Progress, EveryPhaseHasItsOwnSpeed) {
  ProgressText text(false, kStart);
  text.at(packed(1, 1000), kStart);
  EXPECT_NE(text.at(packed(400000, 4000000000), kStart + seconds(400)), "");
  PackProgress joining{400000, 0, 6000000000};
  joining.phase = "joining parts";
  EXPECT_EQ(text.at(joining, kStart + seconds(401)), "");
  joining.bytes = 3000000000;
  EXPECT_EQ(text.at(joining, kStart + seconds(416)), "joining parts: 50.0 %  400000 samples  200 MB/s  15s left");
}

TEST(Progress, BarEveryHalfSecond) {
  ProgressText text(true, kStart);
  EXPECT_EQ(text.at(packed(0, 0), kStart), "packing [..............................]   0 %  0 samples  0 MB/s  ? left");
  EXPECT_EQ(text.at(packed(100, 1000000), kStart + milliseconds(499)), "");
  EXPECT_EQ(text.at(packed(1000, 2000000000), kStart + seconds(2)),
            "packing [###############...............]  50 %  1000 samples  500 samples/s  1000 MB/s  2s left");
}

TEST(Progress, NothingWithoutASize) {
  ProgressText text(true, kStart);
  EXPECT_EQ(text.at({5, 0, 0}, kStart + seconds(20)), "");
}

}  // namespace
}  // namespace matvlm
