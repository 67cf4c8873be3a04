// Messages: pieces appear as a stream prints them, and on one line.
#include "core/error.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <sstream>

namespace matvlm {
namespace {

template <class... Args>
std::string streamed(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

TEST(Error, PiecesAppearAsAStreamPrintsThem) {
  const std::string text = "text";
  EXPECT_EQ(cat("literal ", text, std::string_view(" view"), 'c', true, false),
            streamed("literal ", text, std::string_view(" view"), 'c', true, false));
  EXPECT_EQ(cat(std::numeric_limits<int64_t>::min(), ' ', std::numeric_limits<uint64_t>::max(), ' ', -3, ' ',
                std::numeric_limits<uint16_t>::max()),
            streamed(std::numeric_limits<int64_t>::min(), ' ', std::numeric_limits<uint64_t>::max(), ' ', -3, ' ',
                     std::numeric_limits<uint16_t>::max()));
  for (const double x : {0.0, -0.0, 1.0, 0.1, 1.0 / 3, 1e-9, 123456789.0, 1e300, 5e-324,
                         std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_EQ(cat(x, ' ', static_cast<float>(x)), streamed(x, ' ', static_cast<float>(x)));
  }
  EXPECT_EQ(cat(), "");
}

TEST(Error, MessagesAreOneLine) {
  try {
    fail("a\nb\x1b", "c", 7);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "a\\nb\\x1bc7");
  }
  EXPECT_NO_THROW(check(true, "unused"));
  EXPECT_THROW(check(false, "used"), Error);
}

}  // namespace
}  // namespace matvlm
