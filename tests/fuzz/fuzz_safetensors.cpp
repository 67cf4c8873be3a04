#include "core/safetensors.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace matvlm;
  const fuzz::MemoryFile bytes(data, size);
  fuzz::expect_error_or_result([&] {
    const SafetensorsFile file(bytes.path());
    for (const TensorInfo& info : file.infos()) {
      std::vector<float> values(info.holds_floats() ? static_cast<size_t>(info.numel) : 0);
      if (info.holds_floats()) file.read_floats(info.name, values);
      file.bytes(info.name);
    }
  });
  return 0;
}
