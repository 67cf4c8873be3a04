#include "core/gguf_model.h"
#include "tests/fuzz/fuzz.h"

namespace {

void read_values(const matvlm::TensorFile& file) {
  for (const matvlm::TensorInfo& info : file.infos()) {
    std::vector<float> values(info.holds_floats() ? static_cast<size_t>(info.numel) : 0);
    if (info.holds_floats()) file.read_floats(info.name, values);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace matvlm;
  const fuzz::MemoryFile bytes(data, size);
  fuzz::expect_error_or_result([&] { read_values(*open_gguf_model(bytes.path())); });
  fuzz::expect_error_or_result([&] { gguf_config(GgufFile(bytes.path())); });
  fuzz::expect_error_or_result(
      [&] { static_cast<void>(Json::parse(gguf_tokenizer_json(GgufFile(bytes.path())), "tokenizer")); });
  return 0;
}
