// What an action that should fail says.
#pragma once

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

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace matvlm::testing
