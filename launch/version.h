// The program's version; CMakeLists.txt has the same number (a test compares).
#pragma once

namespace matvlm {

inline constexpr const char* kVersion = "0.1.0";

}  // namespace matvlm
