// What an action that should fail says.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "core/error.h"

namespace matvlm::testing {

// The message of the Error that `action` throws, or "no error".
template <class Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// One line that begins with `start` and has `part` in it.
inline void expect_message(const std::string& message, const std::string& start, const std::string& part) {
  EXPECT_TRUE(message.starts_with(start)) << message;
  EXPECT_NE(message.find(part), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace matvlm::testing
