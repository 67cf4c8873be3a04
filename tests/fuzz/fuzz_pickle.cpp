#include <span>

#include "core/torch_pickle.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace matvlm;
  fuzz::expect_error_or_result([&] { read_torch_pickle(std::as_bytes(std::span(data, size)), "x/data.pkl"); });
  return 0;
}
