// Which tensors a model consists of: names (Hugging Face layout), shapes, and how checkpoints may spell them.
#pragma once

#include <string>
#include <vector>

#include "core/tensor.h"
#include "core/tensor_source.h"
#include "layers/config.h"

namespace matvlm {

struct ModelTensor {
  std::string name;
  Shape shape;
  bool keep_float32 = false;  // A_log, D, dt_bias: float32 whatever the compute dtype
};

// Names of the tensors of layer i, `language_model.model.layers.{i}.`
std::string text_layer_prefix(int64_t layer);
// Attention's output projection within a layer: `self_attn.dense` (Phi) or `self_attn.o_proj`.
std::string attention_output_name(const TextConfig& config);
// `vision_tower._vision_tower.vision_model.`; transformers 5 leaves out `vision_model.`, which loading accepts.
inline constexpr const char* kVisionPrefix = "vision_tower._vision_tower.vision_model.";

// All tensors that a forward pass of this model reads, in the order of the forward pass.
std::vector<ModelTensor> model_tensors(const ModelConfig& config);
// Those of the mixer of layer i alone.
std::vector<ModelTensor> mamba_tensors(const ModelConfig& config, int64_t layer);

// Tensors that checkpoints carry and no pass reads: the vision tower's last block(s), post_layernorm and pooling head,
// rotary tables. They are no error, and an export keeps them.
bool is_unused_tensor(const ModelConfig& config, const std::string& name);

// The tensors that are one matrix (or one bias) in memory with `first`, in order, because their products have the same
// input: q, k and v of attention, gate and up of SwiGLU. `first` alone when it begins no such group.
std::vector<std::string> joined_names(const std::string& first);

// The name under which `source` holds the canonical `name`, or "" when it does not. A language model's own checkpoint
// leaves out `language_model.`.
std::string name_in_source(const TensorSource& source, const std::string& name);

// The name under which an export holds the canonical `name`: a model without a vision tower is written with the names
// of the language model's own checkpoint.
std::string export_name(const ModelConfig& config, const std::string& name);

// Error that lists every missing, misshapen and unexpected name, unless `source` holds exactly the model's tensors.
void check_source(const ModelConfig& config, const TensorSource& source);

// `*` matches any run of characters.
bool matches_pattern(const std::string& name, const std::string& pattern);

}  // namespace matvlm
