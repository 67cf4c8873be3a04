// Whole PyTorch archives: the zip reader, inflation, and tensors over storages.
#include "core/torch_file.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace matvlm;
  const fuzz::MemoryFile bytes(data, size);
  fuzz::expect_error_or_result([&] {
    const ZipArchive archive(bytes.path());
    for (const ZipEntry& entry : archive.entries()) fuzz::expect_error_or_result([&] { archive.read(entry); });
  });
  fuzz::expect_error_or_result([&] {
    const TorchFile file(bytes.path());
    for (const TensorInfo& info : file.infos()) {
      std::vector<float> values(info.holds_floats() ? static_cast<size_t>(info.numel) : 0);
      if (info.holds_floats()) file.read_floats(info.name, values);
    }
  });
  return 0;
}
