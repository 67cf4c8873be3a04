#include <filesystem>

#include "data/llava_json.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace matvlm;
  const fuzz::MemoryFile bytes(data, size);
  fuzz::expect_error_or_result([&] {
    LlavaFile file(bytes.path(), "/proc/self");
    while (file.next()) fuzz::expect_error_or_result([&] { file.sample(); });
  });
  return 0;
}
