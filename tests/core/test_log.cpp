// Logging: prefix, levels by rank, messages with braces, the log file.
#include "core/log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "core/error.h"
#include "core/file.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

using testing::contains;

std::string host() {
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  return name;
}

TEST(Log, RankZeroWritesEverythingWithItsPrefix) {
  const testing::TempDir folder;
  ::testing::internal::CaptureStderr();
  log_init(0, 2, folder.file("log"));
  log_info("loss {} {0} 1%");
  log_warn("careful");
  log_error("broken");
  const std::string shown = ::testing::internal::GetCapturedStderr();
  const std::string prefix = "[0 " + host() + "] ";
  EXPECT_TRUE(contains(shown, " info " + prefix + "loss {} {0} 1%\n")) << shown;
  EXPECT_TRUE(contains(shown, " warning " + prefix + "careful\n")) << shown;
  EXPECT_TRUE(contains(shown, " error " + prefix + "broken\n")) << shown;
  EXPECT_FALSE(contains(shown, "\x1b")) << "colour although stderr is no terminal";
  EXPECT_EQ(read_file(folder.file("log")), shown);
  log_init(0, 1);
}

TEST(Log, OtherRanksWriteWarningsAndErrorsOnly) {
  ::testing::internal::CaptureStderr();
  log_init(3, 4);
  log_info("quiet");
  log_warn("careful");
  log_error("broken");
  const std::string shown = ::testing::internal::GetCapturedStderr();
  EXPECT_FALSE(contains(shown, "quiet"));
  EXPECT_TRUE(contains(shown, "[3 " + host() + "] careful"));
  EXPECT_TRUE(contains(shown, "[3 " + host() + "] broken"));
  log_init(0, 1);
}

TEST(Log, BadArgumentsAreErrors) {
  EXPECT_THROW(log_init(2, 2), Error);
  EXPECT_THROW(log_init(-1, 2), Error);
  EXPECT_THROW(log_init(0, 1, "/proc/no/such/folder/log"), Error);
}

}  // namespace
}  // namespace matvlm
