// Sizes and switches of a model, read from a checkpoint's config.json (TinyLLaVA layout: a text_config and a SigLIP
// vision_config; or a language model's own) and its mamba_config.json. Phi and Llama are two descriptions of one block.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"

namespace matvlm {

enum class NormKind { layer_norm, rms_norm };
enum class MlpKind { gelu, swiglu };  // fc1 -> GELU-tanh -> fc2, or down(silu(gate) * up)

// What a transformer block is made of; the mixer (attention or Mamba-2) is chosen per layer.
struct BlockSpec {
  bool parallel = true;  // y = h + mixer(n(h)) + mlp(n(h)) on one norm; else two sequential residuals with a norm each
  NormKind norm = NormKind::layer_norm;
  MlpKind mlp = MlpKind::gelu;
  bool qkv_bias = true;
  bool dense_bias = true;
  bool mlp_bias = true;
};

// Rotary frequencies of a model whose context was stretched after its training.
enum class RopeScalingKind { none, linear, llama3 };
struct RopeScaling {
  RopeScalingKind kind = RopeScalingKind::none;
  double factor = 1.0;
  double low_freq_factor = 1.0;   // llama3: turns over the original context below which a pair is slowed down,
  double high_freq_factor = 4.0;  // and above which it stays
  int64_t original_max_positions = 8192;
};

struct TextConfig {
  std::string model_type = "phi";  // phi, llama, qwen2
  int64_t hidden = 0;              // D
  int64_t layers = 0;
  int64_t heads = 0;        // H
  int64_t kv_heads = 0;     // K
  int64_t head_dim = 0;     // P = N
  int64_t mlp = 0;          // F
  int64_t vocab = 0;        // V
  int64_t rotary_dims = 0;  // even
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  double norm_eps = 1e-5;
  int64_t max_positions = 2048;
  bool head_bias = true;
  bool tied_head = false;
  std::vector<int64_t> end_tokens;  // ids that end a text (eos_token_id)
  BlockSpec block;
};

// Turns (in radians) per position of each of the rotary_dims / 2 pairs, scaling applied.
std::vector<double> rope_frequencies(const TextConfig& config);

struct VisionConfig {
  int64_t hidden = 0;
  int64_t mlp = 0;
  int64_t layers = 0;  // in the checkpoint; blocks_used() of them run
  int64_t heads = 0;
  int64_t image_size = 0;
  int64_t patch_size = 0;
  double norm_eps = 1e-6;
  int64_t feature_layer = -2;    // the feature is hidden_states[feature_layer], no final norm
  bool drop_first_patch = true;  // vision_feature_select_strategy `patch`; `cls_patch` keeps all

  int64_t blocks_used() const { return layers + 1 + feature_layer; }
  int64_t patches() const { return (image_size / patch_size) * (image_size / patch_size); }
  int64_t tokens() const { return patches() - (drop_first_patch ? 1 : 0); }
};

// Mamba-2 layers of a student (mamba_config.json). Widths follow from the attention they replace.
struct MambaConfig {
  std::vector<int64_t> ssm_layers;  // ascending
  bool is_bias = false;
  int64_t conv_width = 4;
  double norm_eps = 1e-5;
  bool contains(int64_t layer) const;
};

struct ModelConfig {
  TextConfig text;
  std::optional<VisionConfig> vision;  // none: a text-only model
  MambaConfig mamba;                   // no layers: a plain transformer
  int64_t max_length = 0;              // tokenizer_model_max_length; 0 = not given
  std::string image_aspect = "square";
  int64_t tokens_per_image() const { return vision ? vision->tokens() : 0; }
};

// From Hugging Face dictionaries. `vision` may be null (no vision tower). Error on an unsupported model type,
// activation or option, or sizes that do not fit together, with file and key.
ModelConfig model_config_from_json(const Json& text, const Json& vision, const std::string& select_strategy);
// DIR/config.json and, when it is there, DIR/mamba_config.json.
ModelConfig read_model_config(const std::string& dir);
// Writes DIR/config.json and, for a student, DIR/mamba_config.json. A model without a vision tower is written as the
// language model's own config.
void write_model_config(const ModelConfig& config, const std::string& dir);
// Throws unless every layer is in [0, layers) and the list ascends without repeats. `where` heads the message.
void check_ssm_layers(const std::vector<int64_t>& ssm_layers, int64_t layers, const std::string& where = "ssm_layers");

}  // namespace matvlm
