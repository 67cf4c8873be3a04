// Learning-rate schedules at their ends and joints, and the clipping factor.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "distill/schedule.h"
#include "distill/update.h"

namespace matvlm {
namespace {

ScheduleConfig schedule(ScheduleKind kind, int64_t warmup, int64_t decay, int64_t total, double min_factor = 0.0) {
  return {kind, warmup, decay, total, min_factor};
}

// The factor of an update is that of its middle: samples + batch / 2. Batches of 2 put it on whole samples.
double at(const ScheduleConfig& s, int64_t middle) { return schedule_factor(s, middle - 1, 2); }

constexpr double kExact = 1e-12;  // double arithmetic

TEST(Schedule, WarmupIsLinearInSamples) {
  for (const ScheduleKind kind : {ScheduleKind::wsd, ScheduleKind::cosine, ScheduleKind::constant}) {
    const ScheduleConfig s = schedule(kind, 100, 50, 1000, 0.1);
    EXPECT_NEAR(at(s, 1), 0.01, kExact);
    EXPECT_NEAR(at(s, 50), 0.5, kExact);
    EXPECT_NEAR(at(s, 99), 0.99, kExact);
    EXPECT_NEAR(at(s, 100), 1.0, kExact);
    EXPECT_GT(schedule_factor(s, 0, 1), 0.0);  // the first update learns something
    EXPECT_NEAR(schedule_factor(s, 0, 64), 0.32, kExact);
  }
}

TEST(Schedule, WsdIsFlatAndThenHalfACosine) {
  const ScheduleConfig s = schedule(ScheduleKind::wsd, 100, 200, 1000);
  EXPECT_EQ(at(s, 101), 1.0);
  EXPECT_EQ(at(s, 500), 1.0);
  EXPECT_EQ(at(s, 800), 1.0);
  EXPECT_NEAR(at(s, 850), 0.5 * (1 + std::sqrt(0.5)), kExact);
  EXPECT_NEAR(at(s, 900), 0.5, kExact);
  EXPECT_NEAR(at(s, 950), 0.5 * (1 - std::sqrt(0.5)), kExact);
  EXPECT_NEAR(at(s, 1000), 0.0, kExact);
  EXPECT_NEAR(at(s, 1200), 0.0, kExact);  // behind the end
  EXPECT_GT(schedule_factor(s, 999, 1), 0.0);
}

TEST(Schedule, WsdEndsAtItsFloor) {
  const ScheduleConfig s = schedule(ScheduleKind::wsd, 0, 200, 1000, 0.1);
  EXPECT_EQ(at(s, 1), 1.0);
  EXPECT_NEAR(at(s, 900), 0.55, kExact);
  EXPECT_NEAR(at(s, 1000), 0.1, kExact);
  EXPECT_EQ(at(schedule(ScheduleKind::wsd, 0, 0, 1000, 0.1), 999), 1.0);  // no decay
}

TEST(Schedule, CosineFromTheWarmupToTheEnd) {
  const ScheduleConfig s = schedule(ScheduleKind::cosine, 200, 64000, 1000, 0.2);
  EXPECT_NEAR(at(s, 200), 1.0, kExact);
  EXPECT_NEAR(at(s, 400), 0.2 + 0.8 * 0.5 * (1 + std::sqrt(0.5)), kExact);
  EXPECT_NEAR(at(s, 600), 0.6, kExact);
  EXPECT_NEAR(at(s, 1000), 0.2, kExact);
  EXPECT_NEAR(at(s, 1300), 0.2, kExact);
  EXPECT_EQ(at(schedule(ScheduleKind::cosine, 1000, 0, 1000), 1001), 1.0);  // nothing left after the warm-up
}

TEST(Schedule, ConstantStays) {
  const ScheduleConfig s = schedule(ScheduleKind::constant, 10, 10, 100, 0.3);
  EXPECT_EQ(at(s, 50), 1.0);
  EXPECT_EQ(at(s, 100), 1.0);
  EXPECT_EQ(at(schedule(ScheduleKind::constant, 0, 0, 0), 1), 1.0);
}

// The sum of rates over a run, weighted with the samples of each update, hardly depends on how the run is cut into
// updates: midpoints integrate a straight line exactly and half a cosine to second order.
TEST(Schedule, DoesNotDependOnTheBatch) {
  const ScheduleConfig s = schedule(ScheduleKind::wsd, 128, 256, 1024);
  const auto area = [&](int64_t batch) {
    double sum = 0;
    for (int64_t done = 0; done < 1024; done += batch)
      sum += static_cast<double>(batch) * schedule_factor(s, done, batch);
    return sum;
  };
  EXPECT_NEAR(area(1), 64.0 + 640.0 + 128.0, 1e-3);
  EXPECT_NEAR(area(64), area(1), 1e-3 * area(1));
}

TEST(ClipFactor, Values) {
  EXPECT_EQ(clip_factor(0.1, 0.05), 1.0);
  EXPECT_EQ(clip_factor(0.1, 0.0), 1.0);
  EXPECT_EQ(clip_factor(0.1, 0.1), 0.1 / (0.1 + 1e-6));  // below 1 by the published constant
  EXPECT_NEAR(clip_factor(0.1, 2.0), 0.05, 1e-7);
  EXPECT_EQ(clip_factor(0.1, std::numeric_limits<double>::infinity()), 0.0);
  EXPECT_EQ(clip_factor(0.0, 100.0), 1.0);  // no clipping
}

}  // namespace
}  // namespace matvlm
