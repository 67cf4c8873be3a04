// The language model's part of a config.json in Hugging Face form: one reader and one writer for each family.
#pragma once

#include "core/json.h"
#include "layers/config.h"

namespace matvlm {

// From a PhiConfig, LlamaConfig or Qwen2Config. Error on another model type, an option that is not supported (sliding
// windows, a rotary scaling other than linear and llama3, ...) or sizes that do not fit together, with file and key.
TextConfig text_config_from_json(const Json& json);
// What text_config_from_json reads back to the same config, and transformers 4 and 5 load.
Json text_config_json(const TextConfig& config);
// The class of transformers that runs the model: PhiForCausalLM, ...
std::string text_architecture(const TextConfig& config);

}  // namespace matvlm
