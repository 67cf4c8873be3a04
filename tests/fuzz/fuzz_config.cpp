// config.json, and behind the first zero byte mamba_config.json.
#include "layers/config.h"
#include "layers/tensors.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace matvlm;
  const std::string_view all = fuzz::text_of(data, size);
  const std::string_view config = all.substr(0, all.find('\0'));
  fuzz::expect_error_or_result([&] {
    Json mamba;
    if (config.size() < all.size()) mamba = Json::parse(all.substr(config.size() + 1), "mamba_config.json");
    const ModelConfig model = parse_model_config(Json::parse(config, "config.json"), mamba);
    model_tensors(model);
  });
  return 0;
}
