// main() of every test executable. A run of the GPU suites alone on a machine without a GPU says so and ends with the
// code that ctest reports as skipped, or, where MATVLM_REQUIRE_GPU is set (tests/gpu sets it), as a failure.
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>

#include "core/context.h"

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;  // SKIP_RETURN_CODE in tests/CMakeLists.txt
  ::testing::InitGoogleTest(&argc, argv);
  if (GTEST_FLAG_GET(filter) == "*Cuda*" && matvlm::cuda_device_count() == 0) {
    std::cout << "no GPU on this machine: its " << ::testing::UnitTest::GetInstance()->total_test_count()
              << " tests include some for GPUs, which were not run\n";
    return std::getenv("MATVLM_REQUIRE_GPU") != nullptr ? 1 : kSkipped;
  }
  return RUN_ALL_TESTS();
}
