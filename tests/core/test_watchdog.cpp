// Watchdog: fires once after silence or a reported failure, and not while heartbeats come.
#include "core/watchdog.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

namespace matvlm {
namespace {

using std::chrono::milliseconds;

TEST(Watchdog, FiresOnceAfterSilence) {
  std::atomic<int> calls{0};
  std::promise<std::string> reason;
  std::future<std::string> seen = reason.get_future();
  Watchdog watchdog(milliseconds(30), nullptr, [&](const std::string& text) {
    if (++calls == 1) reason.set_value(text);
  });
  ASSERT_EQ(seen.wait_for(std::chrono::seconds(20)), std::future_status::ready);
  EXPECT_TRUE(seen.get().starts_with("[watchdog] found no progress for "));
  std::this_thread::sleep_for(milliseconds(100));
  EXPECT_EQ(calls, 1);
}

TEST(Watchdog, HeartbeatsKeepItQuiet) {
  std::atomic<int> calls{0};
  // The timeout is far above what a busy machine may hold a thread up; the test's whole length is longer.
  Watchdog watchdog(milliseconds(800), nullptr, [&](const std::string&) { ++calls; });
  for (int i = 0; i < 60; ++i) {
    std::this_thread::sleep_for(milliseconds(20));
    watchdog.heartbeat();
  }
  EXPECT_EQ(calls, 0);
}

TEST(Watchdog, AReportedFailureFiresInSpiteOfHeartbeats) {
  std::atomic<bool> failed{false};
  std::promise<std::string> reason;
  std::future<std::string> seen = reason.get_future();
  Watchdog watchdog(
      milliseconds(40), [&] { return failed ? std::string("[nccl] broken") : std::string(); },
      [&](const std::string& text) { reason.set_value(text); });
  watchdog.heartbeat();
  failed = true;
  std::future_status status = std::future_status::timeout;
  for (int i = 0; i < 2000 && status != std::future_status::ready; ++i) {
    watchdog.heartbeat();
    status = seen.wait_for(milliseconds(5));
  }
  ASSERT_EQ(status, std::future_status::ready);
  EXPECT_EQ(seen.get(), "[nccl] broken");
}

TEST(Watchdog, EndsAtOnceWhenDestroyed) {
  const auto start = std::chrono::steady_clock::now();
  {
    const Watchdog watchdog(std::chrono::hours(1), nullptr, [](const std::string&) {});
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

}  // namespace
}  // namespace matvlm
