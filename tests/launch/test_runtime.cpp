// Process-wide choices: threads of a rank, the agreement to stop, names on the command line.
#include "launch/runtime.h"

#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <cstdlib>

#include "core/error.h"

namespace matvlm {
namespace {

// Sets an environment variable for the life of the object.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) {
    const char* old = std::getenv(name);
    had_ = old != nullptr;
    if (had_) old_ = old;
    if (value == nullptr) {
      unsetenv(name);
    } else {
      setenv(name, value, 1);
    }
  }
  ~Environment() {
    if (had_) {
      setenv(name_, old_.c_str(), 1);
    } else {
      unsetenv(name_);
    }
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
  bool had_ = false;
  std::string old_;
};

TEST(Runtime, ThreadsAreTheCoresDividedByTheRanks) {
  const Environment none("OMP_NUM_THREADS", nullptr);
  const int all = threads_per_rank(1);
  EXPECT_GE(all, 1);
  EXPECT_EQ(threads_per_rank(all), 1);
  EXPECT_EQ(threads_per_rank(100 * all), 1);
}

TEST(Runtime, OmpNumThreadsDecides) {
  {
    const Environment three("OMP_NUM_THREADS", "3");
    EXPECT_EQ(threads_per_rank(7), 3);
  }
  {
    const Environment nested("OMP_NUM_THREADS", "4,2");
    EXPECT_EQ(threads_per_rank(1), 4);
  }
  for (const char* bad : {"0", "-2", "many", "3x"}) {
    const Environment value("OMP_NUM_THREADS", bad);
    try {
      threads_per_rank(1);
      FAIL() << bad;
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()), cat("OMP_NUM_THREADS: found '", bad, "', expected a whole number above 0"));
    }
  }
}

TEST(Runtime, NamesOfDevicesAndPrecisions) {
  EXPECT_EQ(parse_device("auto"), DeviceChoice::automatic);
  EXPECT_EQ(parse_device("cuda"), DeviceChoice::cuda);
  EXPECT_EQ(parse_precision("bf16"), DType::bf16);
  EXPECT_THROW(parse_device("gpu"), Error);
  EXPECT_THROW(parse_precision("f64"), Error);
}

// One process may start MPI once, so this is one test.
TEST(Runtime, OwnsDeviceAndStopsOnSignals) {
  Process process;
  EXPECT_EQ(process.size(), 1);
  {
    Runtime runtime(process, DeviceChoice::cpu, DType::f32);
    EXPECT_FALSE(runtime.ctx().on_gpu());
    EXPECT_EQ(&runtime.ctx(), &runtime.host_ctx());
    EXPECT_EQ(&runtime.device_comm(), &runtime.host());
    EXPECT_EQ(runtime.description().substr(0, 7), "1 rank,");
  }
  try {
    const Runtime runtime(process, DeviceChoice::cpu, DType::bf16);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()), "key 'precision': found bf16 on the CPU, expected f32 there");
  }
  EXPECT_FALSE(stop_requested());
  EXPECT_FALSE(stop_agreed(process.host()));
  std::raise(SIGTERM);
  EXPECT_TRUE(stop_requested());
  std::atomic<int> agreed{0};
  run_local_ranks(3, [&](Comm& comm) { agreed += stop_agreed(comm) ? 1 : 0; });
  EXPECT_EQ(agreed, 3);
  EXPECT_EQ(process.report_failure("a failure on purpose"), 1);
}

}  // namespace
}  // namespace matvlm
