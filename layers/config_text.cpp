// Phi, Llama and Qwen2 as sizes and a description of their block.
#include "layers/config_text.h"

#include <cmath>

#include "core/error.h"

namespace matvlm {
namespace {

int64_t positive(const Json& json, const char* key) {
  const int64_t value = json.at(key).as_int();
  check(value > 0, json.where(), ": key '", key, "': found ", value, ", expected a positive number");
  return value;
}

bool has_value(const Json& json, const char* key) { return json.has(key) && !json.at(key).is_null(); }

void expect_activation(const Json& json, const std::string& expected, const std::string& also) {
  const std::string found = json.get("hidden_act", expected.c_str());
  check(found == expected || found == also, json.where(), ": key 'hidden_act': found '", found, "', expected '",
        expected, "'");
}

void expect_off(const Json& json, const char* key) {
  check(!json.get(key, false), json.where(), ": key '", key, "': found true, which is not supported");
}

// What describes the rotary embedding: `rope_parameters` (transformers 5) or `rope_scaling` (4), which may be null.
Json rotary_dictionary(const Json& json) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!has_value(json, key)) continue;
    const Json value = json.at(key);
    check(value.is_object(), value.where(), ": found ", value.dump(), ", expected an object or null");
    return value;
  }
  return Json::object();
}

std::string rope_type(const Json& rope) {
  return rope.has("rope_type") ? rope.at("rope_type").as_string() : rope.get("type", "default");
}

double rotary_option(const Json& json, const char* key, double otherwise) {
  const Json rope = rotary_dictionary(json);
  return rope.has(key) ? rope.at(key).as_double() : json.get(key, otherwise);
}

void read_theta(const Json& json, TextConfig& c) {
  c.rope_theta = rotary_option(json, "rope_theta", 10000.0);
  check(std::isfinite(c.rope_theta) && c.rope_theta > 0, json.where(), ": key 'rope_theta': found ", c.rope_theta,
        ", expected a positive number");
}

RopeScaling rope_scaling(const Json& json, int64_t max_positions) {
  RopeScaling s;
  const Json rope = rotary_dictionary(json);
  const std::string type = rope_type(rope);
  if (type == "default") return s;
  check(type == "linear" || type == "llama3", rope.where(), ": key 'rope_type': found '", type,
        "', expected 'default', 'linear' or 'llama3'");
  s.kind = type == "linear" ? RopeScalingKind::linear : RopeScalingKind::llama3;
  s.factor = rope.at("factor").as_double();
  check(std::isfinite(s.factor) && s.factor >= 1, rope.where(), ": key 'factor': found ", s.factor,
        ", expected a number of at least 1");
  if (s.kind == RopeScalingKind::linear) return s;
  s.low_freq_factor = rope.at("low_freq_factor").as_double();
  s.high_freq_factor = rope.at("high_freq_factor").as_double();
  s.original_max_positions = rope.get("original_max_position_embeddings", max_positions);
  check(s.low_freq_factor > 0 && s.high_freq_factor > s.low_freq_factor && std::isfinite(s.high_freq_factor),
        rope.where(), ": keys 'low_freq_factor' and 'high_freq_factor': found ", s.low_freq_factor, " and ",
        s.high_freq_factor, ", expected two rising positive numbers");
  check(s.original_max_positions > 0, rope.where(), ": key 'original_max_position_embeddings': found ",
        s.original_max_positions, ", expected a positive number");
  return s;
}

void read_sizes(const Json& json, TextConfig& c) {
  c.hidden = positive(json, "hidden_size");
  c.layers = positive(json, "num_hidden_layers");
  c.heads = positive(json, "num_attention_heads");
  c.kv_heads = json.get("num_key_value_heads", c.heads);
  const int64_t head_dim = json.get("head_dim", 0);  // 0: not given
  check(head_dim != 0 || c.hidden % c.heads == 0, json.where(), ": key 'num_attention_heads': found ", c.heads,
        ", expected a divisor of the width ", c.hidden);
  c.head_dim = head_dim != 0 ? head_dim : c.hidden / c.heads;
  c.mlp = positive(json, "intermediate_size");
  c.vocab = positive(json, "vocab_size");
  check(c.kv_heads > 0 && c.heads % c.kv_heads == 0, json.where(), ": key 'num_key_value_heads': found ", c.kv_heads,
        ", expected a divisor of the ", c.heads, " heads");
  check(c.head_dim > 0, json.where(), ": key 'head_dim': found ", c.head_dim, ", expected a positive number");
  c.tied_head = json.get("tie_word_embeddings", false);
}

// Ids that end a text: one number, a list, or null. Those outside the vocabulary are placeholders and left out.
void read_end_tokens(const Json& json, TextConfig& c) {
  if (!has_value(json, "eos_token_id")) return;
  const Json value = json.at("eos_token_id");
  const auto add = [&](const Json& id) {
    if (id.as_int() >= 0 && id.as_int() < c.vocab) c.end_tokens.push_back(id.as_int());
  };
  if (!value.is_array()) return add(value);
  for (int64_t i = 0; i < value.size(); ++i) add(value.at(i));
}

void read_phi(const Json& json, TextConfig& c) {
  expect_activation(json, "gelu_new", "gelu_pytorch_tanh");
  check(!has_value(json, "rope_scaling"), json.where(), ": key 'rope_scaling': found a value, which is not supported");
  const Json rope = rotary_dictionary(json);
  check(rope_type(rope) == "default", rope.where(), ": key 'rope_type': found '", rope_type(rope),
        "', expected 'default'");
  expect_off(json, "qk_layernorm");
  read_sizes(json, c);
  c.norm_eps = json.get("layer_norm_eps", 1e-5);
  c.max_positions = json.get("max_position_embeddings", 2048);
  read_theta(json, c);
  const double factor = rotary_option(json, "partial_rotary_factor", 0.5);
  c.rotary_dims = static_cast<int64_t>(factor * static_cast<double>(c.head_dim));
  check(!c.tied_head, json.where(), ": key 'tie_word_embeddings': found true, expected false for phi");
  check(c.rotary_dims % 2 == 0 && c.rotary_dims >= 0 && c.rotary_dims <= c.head_dim, json.where(),
        ": key 'partial_rotary_factor': found ", factor, ", which rotates ", c.rotary_dims, " of ", c.head_dim,
        " dimensions, expected an even number");
}

// Every layer must see the whole text.
void refuse_windows(const Json& json) {
  expect_off(json, "use_sliding_window");
  if (!has_value(json, "layer_types")) return;
  const Json types = json.at("layer_types");
  for (int64_t i = 0; i < types.size(); ++i) {
    const std::string type = types.at(i).as_string();
    check(type == "full_attention", types.where(), ": found '", type, "' for layer ", i,
          ", expected 'full_attention' in every layer");
  }
}

void read_llama(const Json& json, TextConfig& c) {
  const bool qwen = c.model_type == "qwen2";
  expect_activation(json, "silu", "swish");
  refuse_windows(json);
  read_sizes(json, c);
  c.norm_eps = json.get("rms_norm_eps", 1e-6);
  c.max_positions = json.get("max_position_embeddings", qwen ? 32768 : 2048);
  read_theta(json, c);
  c.rope_scaling = rope_scaling(json, c.max_positions);
  check(c.head_dim % 2 == 0, json.where(), ": key 'head_dim': found ", c.head_dim, ", expected an even number");
  const double factor = rotary_option(json, "partial_rotary_factor", 1.0);
  check(factor == 1.0, json.where(), ": key 'partial_rotary_factor': found ", factor, ", expected 1 for ",
        c.model_type);
  c.rotary_dims = c.head_dim;
  const bool bias = json.get("attention_bias", qwen);
  check(!qwen || bias, json.where(), ": key 'attention_bias': found false, expected true for qwen2");
  c.block.parallel = false;
  c.block.norm = NormKind::rms_norm;
  c.block.mlp = MlpKind::swiglu;
  c.block.qkv_bias = bias;
  c.block.dense_bias = bias && !qwen;
  c.block.mlp_bias = json.get("mlp_bias", false);
  check(!qwen || !c.block.mlp_bias, json.where(), ": key 'mlp_bias': found true, expected false for qwen2");
  c.head_bias = false;
}

Json common_json(const TextConfig& c) {
  Json json = Json::object();
  json.set("model_type", c.model_type)
      .set("hidden_size", c.hidden)
      .set("intermediate_size", c.mlp)
      .set("num_hidden_layers", c.layers)
      .set("num_attention_heads", c.heads)
      .set("num_key_value_heads", c.kv_heads)
      .set("head_dim", c.head_dim)
      .set("vocab_size", c.vocab)
      .set("max_position_embeddings", c.max_positions)
      .set("rope_theta", c.rope_theta)
      .set("tie_word_embeddings", c.tied_head);
  if (c.end_tokens.size() == 1) json.set("eos_token_id", c.end_tokens.front());
  if (c.end_tokens.size() > 1) {
    Json list = Json::array();
    for (const int64_t id : c.end_tokens) list.push(Json::of(id));
    json.set("eos_token_id", list);
  }
  return json;
}

Json phi_json(const TextConfig& c) {
  Json rope = Json::object();
  const double factor = static_cast<double>(c.rotary_dims) / static_cast<double>(c.head_dim);
  // The reader truncates factor * head_dim; a factor a hair too small would lose two dimensions.
  const double safe = std::floor(factor * static_cast<double>(c.head_dim)) == static_cast<double>(c.rotary_dims)
                          ? factor
                          : std::nextafter(factor, 1.0);
  rope.set("rope_type", "default").set("rope_theta", c.rope_theta).set("partial_rotary_factor", safe);
  return common_json(c)
      .set("hidden_act", "gelu_new")
      .set("layer_norm_eps", c.norm_eps)
      .set("partial_rotary_factor", safe)
      .set("rope_parameters", rope)
      .set("qk_layernorm", false);
}

Json llama_json(const TextConfig& c) {
  Json rope = Json::object();
  const RopeScaling& s = c.rope_scaling;
  const bool scaled = s.kind != RopeScalingKind::none;
  const bool linear = s.kind == RopeScalingKind::linear;
  rope.set("rope_type", scaled ? (linear ? "linear" : "llama3") : "default").set("rope_theta", c.rope_theta);
  if (scaled) rope.set("factor", s.factor);
  if (scaled && !linear) {
    rope.set("low_freq_factor", s.low_freq_factor)
        .set("high_freq_factor", s.high_freq_factor)
        .set("original_max_position_embeddings", s.original_max_positions);
  }
  Json json = common_json(c);
  json.set("hidden_act", "silu")
      .set("rms_norm_eps", c.norm_eps)
      .set("rope_scaling", scaled ? rope : Json())
      .set("rope_parameters", rope);
  if (c.model_type == "qwen2") return json.set("use_sliding_window", false);
  return json.set("attention_bias", c.block.qkv_bias).set("mlp_bias", c.block.mlp_bias);
}

}  // namespace

TextConfig text_config_from_json(const Json& json) {
  TextConfig c;
  c.model_type = json.get("model_type", "phi");
  if (c.model_type == "phi") {
    read_phi(json, c);
  } else {
    check(c.model_type == "llama" || c.model_type == "qwen2", json.where(), ": key 'model_type': found '", c.model_type,
          "', expected 'phi', 'llama' or 'qwen2'");
    read_llama(json, c);
  }
  read_end_tokens(json, c);
  return c;
}

Json text_config_json(const TextConfig& config) {
  return config.model_type == "phi" ? phi_json(config) : llama_json(config);
}

std::string text_architecture(const TextConfig& config) {
  if (config.model_type == "phi") return "PhiForCausalLM";
  return config.model_type == "qwen2" ? "Qwen2ForCausalLM" : "LlamaForCausalLM";
}

std::vector<double> rope_frequencies(const TextConfig& config) {
  constexpr double kTwoPi = 6.283185307179586476925;
  std::vector<double> out(static_cast<size_t>(config.rotary_dims / 2));
  const RopeScaling& s = config.rope_scaling;
  for (size_t i = 0; i < out.size(); ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(config.rotary_dims);
    double& frequency = out[i];
    frequency = std::pow(config.rope_theta, exponent);
    if (s.kind == RopeScalingKind::linear) frequency /= s.factor;
    if (s.kind != RopeScalingKind::llama3) continue;
    // Turns that the pair makes over the context it was trained with: many (high frequency) stay, few are slowed down,
    // between them the two are mixed.
    const double turns = static_cast<double>(s.original_max_positions) * frequency / kTwoPi;
    const double keep = (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
    if (turns < s.low_freq_factor) {
      frequency /= s.factor;
    } else if (turns <= s.high_freq_factor) {
      frequency = (1.0 - keep) * frequency / s.factor + keep * frequency;
    }
  }
  return out;
}

}  // namespace matvlm
