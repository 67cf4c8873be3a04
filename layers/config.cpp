// config.json in and out.
#include "layers/config.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "layers/config_text.h"

namespace matvlm {
namespace {

void expect_activation(const Json& json, const std::string& expected, const std::string& also) {
  const std::string found = json.get("hidden_act", expected.c_str());
  check(found == expected || found == also, json.where(), ": key 'hidden_act': found '", found, "', expected '",
        expected, "'");
}

VisionConfig vision_config(const Json& json, const std::string& select_strategy, int64_t feature_layer) {
  VisionConfig c;
  const std::string type = json.get("model_type", "siglip_vision_model");
  check(type == "siglip_vision_model" || type == "siglip", json.where(), ": key 'model_type': found '", type,
        "', expected 'siglip_vision_model'");
  expect_activation(json, "gelu_pytorch_tanh", "gelu_new");
  // transformers leaves out of config.json what equals its defaults (so400m differs from them in every size).
  c.hidden = json.get("hidden_size", 768);
  c.mlp = json.get("intermediate_size", 3072);
  c.layers = json.get("num_hidden_layers", 12);
  c.heads = json.get("num_attention_heads", 12);
  c.image_size = json.get("image_size", 224);
  c.patch_size = json.get("patch_size", 16);
  c.norm_eps = json.get("layer_norm_eps", 1e-6);
  c.feature_layer = feature_layer;
  const int64_t channels = json.get("num_channels", 3);
  check(channels == 3, json.where(), ": key 'num_channels': found ", channels, ", expected 3");
  for (const int64_t size : {c.hidden, c.mlp, c.layers, c.heads, c.image_size, c.patch_size}) {
    check(size > 0, json.where(), ": found a size of ", size, ", expected positive numbers");
  }
  check(c.hidden % c.heads == 0, json.where(), ": key 'num_attention_heads': found ", c.heads,
        ", expected a divisor of the width ", c.hidden);
  check(c.patch_size <= c.image_size, json.where(), ": key 'patch_size': found ", c.patch_size,
        ", expected at most the image's ", c.image_size);
  check(feature_layer < 0 && c.blocks_used() >= 0, json.where(), ": key 'vision_feature_layer': found ", feature_layer,
        ", expected ", -1 - c.layers, " to -1");
  check(select_strategy == "patch" || select_strategy == "cls_patch", json.where(),
        ": key 'vision_feature_select_strategy': found '", select_strategy, "', expected 'patch' or 'cls_patch'");
  c.drop_first_patch = select_strategy == "patch";
  check(c.tokens() > 0, json.where(), ": no image token is left of ", c.patches(), " patches");
  return c;
}

MambaConfig mamba_config(const Json& json, const TextConfig& text) {
  MambaConfig m;
  const Json layers = json.at("ssm_layers");
  for (int64_t i = 0; i < layers.size(); ++i) m.ssm_layers.push_back(layers.at(i).as_int());
  check_ssm_layers(m.ssm_layers, text.layers, layers.where());
  m.is_bias = json.get("is_bias", false);
  m.conv_width = json.get("d_conv", 4);
  check(m.conv_width >= 2 && m.conv_width <= 4, json.where(), ": key 'd_conv': found ", m.conv_width,
        ", expected 2 to 4");
  const auto expect = [&](const char* key, int64_t value) {
    const int64_t found = json.get(key, value);
    check(found == value, json.where(), ": key '", key, "': found ", found, ", expected ", value,
          " for this language model");
  };
  expect("d_inner", text.heads * text.head_dim);
  expect("d_xb", text.kv_heads * text.head_dim);
  expect("d_state", text.head_dim);
  return m;
}

Json siglip_json(const VisionConfig& c) {
  return Json::object()
      .set("model_type", "siglip_vision_model")
      .set("hidden_size", c.hidden)
      .set("intermediate_size", c.mlp)
      .set("num_hidden_layers", c.layers)
      .set("num_attention_heads", c.heads)
      .set("num_channels", 3)
      .set("image_size", c.image_size)
      .set("patch_size", c.patch_size)
      .set("hidden_act", "gelu_pytorch_tanh")
      .set("layer_norm_eps", c.norm_eps);
}

}  // namespace

bool MambaConfig::contains(int64_t layer) const {
  return std::binary_search(ssm_layers.begin(), ssm_layers.end(), layer);
}

void check_ssm_layers(const std::vector<int64_t>& ssm_layers, int64_t layers, const std::string& where) {
  for (size_t i = 0; i < ssm_layers.size(); ++i) {
    check(ssm_layers[i] >= 0 && ssm_layers[i] < layers, where, ": found layer ", ssm_layers[i], ", expected 0 to ",
          layers - 1);
    check(i == 0 || ssm_layers[i] > ssm_layers[i - 1], where, ": found ", ssm_layers[i], " after ",
          i == 0 ? 0 : ssm_layers[i - 1], ", expected ascending layers");
  }
}

ModelConfig model_config_from_json(const Json& text, const Json& vision, const std::string& select_strategy) {
  ModelConfig c;
  c.text = text_config_from_json(text);
  if (vision.is_object()) c.vision = vision_config(vision, select_strategy, -2);
  return c;
}

ModelConfig read_model_config(const std::string& dir) {
  const Json json = Json::read_file(dir + "/config.json");
  ModelConfig c;
  const bool wrapped = json.has("text_config");
  c.text = text_config_from_json(wrapped ? json.at("text_config") : json);
  if (json.has("vision_config") && json.at("vision_config").is_object()) {
    const std::string select = json.get("vision_feature_select_strategy", "patch");
    c.vision = vision_config(json.at("vision_config"), select, json.get("vision_feature_layer", -2));
  }
  c.max_length = json.get("tokenizer_model_max_length", 0);
  c.image_aspect = json.get("image_aspect_ratio", "square");
  check(c.image_aspect == "square" || c.image_aspect == "pad", json.where(), ": key 'image_aspect_ratio': found '",
        c.image_aspect, "', expected 'square' or 'pad'");
  const std::string mamba_file = dir + "/mamba_config.json";
  if (std::filesystem::exists(mamba_file)) c.mamba = mamba_config(Json::read_file(mamba_file), c.text);
  return c;
}

void write_model_config(const ModelConfig& config, const std::string& dir) {
  Json architectures = Json::array();
  Json json = config.vision ? Json::object() : text_config_json(config.text);
  if (config.vision) {
    architectures.push(Json::of(std::string_view("TinyLlavaForConditionalGeneration")));
    json.set("model_type", "tinyllava")
        .set("text_config", text_config_json(config.text))
        .set("hidden_size", config.text.hidden)
        .set("vocab_size", config.text.vocab)
        .set("vision_config", siglip_json(*config.vision))
        .set("vision_hidden_size", config.vision->hidden)
        .set("connector_type", "mlp2x_gelu")
        .set("vision_feature_layer", config.vision->feature_layer)
        .set("vision_feature_select_strategy", config.vision->drop_first_patch ? "patch" : "cls_patch")
        .set("image_aspect_ratio", config.image_aspect);
  } else {
    architectures.push(Json::of(std::string_view(text_architecture(config.text))));
  }
  json.set("architectures", architectures);
  if (config.max_length > 0) json.set("tokenizer_model_max_length", config.max_length);
  write_file_atomic(dir + "/config.json", json.dump(2) + "\n");
  if (config.mamba.ssm_layers.empty()) return;
  Json layers = Json::array();
  for (const int64_t layer : config.mamba.ssm_layers) layers.push(Json::of(layer));
  Json mamba = Json::object();
  mamba.set("ssm_layers", layers)
      .set("is_bias", config.mamba.is_bias)
      .set("d_inner", config.text.heads * config.text.head_dim)
      .set("d_xb", config.text.kv_heads * config.text.head_dim)
      .set("d_state", config.text.head_dim)
      .set("ngroups", config.text.heads)
      .set("d_conv", config.mamba.conv_width);
  write_file_atomic(dir + "/mamba_config.json", mamba.dump(2) + "\n");
}

}  // namespace matvlm
