// config.json in and out.
#include "layers/config.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/gguf_model.h"
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

std::vector<int64_t> integer_list(const Json& json) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < json.size(); ++i) out.push_back(json.at(i).as_int());
  return out;
}

// The Mamba layers: `ssm_layers`, or all that the published form's `attn_layers` leaves out.
std::vector<int64_t> ssm_layers_of(const Json& json, const TextConfig& text) {
  if (!json.has("attn_layers")) {
    std::vector<int64_t> layers = integer_list(json.at("ssm_layers"));
    check_ssm_layers(layers, text.layers, json.at("ssm_layers").where());
    return layers;
  }
  const Json list = json.at("attn_layers");
  const std::vector<int64_t> attention = integer_list(list);
  check_ssm_layers(attention, text.layers, list.where());
  std::vector<int64_t> layers;
  for (int64_t i = 0; i < text.layers; ++i) {
    if (!std::binary_search(attention.begin(), attention.end(), i)) layers.push_back(i);
  }
  if (json.has("ssm_layers")) {
    const Json own = json.at("ssm_layers");
    check(integer_list(own) == layers, own.where(),
          ": found layers that contradict 'attn_layers', expected the others");
  }
  return layers;
}

MambaConfig mamba_config(const Json& json, const TextConfig& text) {
  MambaConfig m;
  m.ssm_layers = ssm_layers_of(json, text);
  m.is_bias = json.get("is_bias", false);
  check(!json.get("bidirectional", false), json.where(), ": key 'bidirectional': found true, which is not supported");
  const Json inner = json.has("ssm_cfg") ? json.at("ssm_cfg") : json;  // the published form nests the mixer's own sizes
  m.conv_width = inner.get("d_conv", 4);
  check(m.conv_width >= 2 && m.conv_width <= 4, inner.where(), ": key 'd_conv': found ", m.conv_width,
        ", expected 2 to 4");
  const auto expect = [](const Json& place, const char* key, int64_t value) {
    const int64_t found = place.get(key, value);
    check(found == value, place.where(), ": key '", key, "': found ", found, ", expected ", value,
          " for this language model");
  };
  expect(json, "n_layer", text.layers);
  expect(json, "d_model", text.hidden);
  expect(json, "d_inner", text.heads * text.head_dim);
  expect(json, "d_xb", text.kv_heads * text.head_dim);
  expect(inner, "d_state", text.head_dim);
  expect(inner, "ngroups", text.heads);
  return m;
}

// The fields of the published mixer config and no others: its class refuses what it does not know.
Json mamba_json(const ModelConfig& config) {
  const TextConfig& text = config.text;
  Json attention = Json::array();
  for (int64_t i = 0; i < text.layers; ++i) {
    if (!config.mamba.contains(i)) attention.push(Json::of(i));
  }
  Json inner = Json::object();
  inner.set("expand", 1).set("ngroups", text.heads).set("d_state", text.head_dim);
  if (config.mamba.conv_width != 4) inner.set("d_conv", config.mamba.conv_width);  // 4 is the mixer's own default
  // The published mixer takes its head width from d_state, after it has refused an inner width that its default of 64
  // does not divide.
  if (text.heads * text.head_dim % 64 != 0) inner.set("headdim", text.head_dim);
  const bool layer_norm = text.block.norm == NormKind::layer_norm;
  Json json = Json::object();
  json.set("d_model", text.hidden).set("ssm_cfg", inner);
  json.set(layer_norm ? "layer_norm_eps" : "rms_norm_eps", text.norm_eps).set("vocab_size", Json());
  json.set("d_inner", text.heads * text.head_dim).set("d_xb", text.kv_heads * text.head_dim);
  json.set("intermediate_size", text.mlp);
  json.set("hidden_act", text.block.mlp == MlpKind::swiglu ? "silu" : "gelu_new");
  json.set("n_layer", text.layers).set("attn_layers", attention);
  if (layer_norm) json.set("resid_pdrop", 0.0);
  return json.set("bidirectional", false).set("is_bias", config.mamba.is_bias);
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

namespace {

// DIR/config.json; of a folder that has only the parts' own configs, what TinyLLaVA would write for them.
Json read_config_json(const std::string& dir) {
  const std::string text = dir + "/language_model/config.json";
  if (std::filesystem::exists(dir + "/config.json") || !std::filesystem::exists(text)) {
    const std::string gguf = std::filesystem::exists(dir + "/config.json") ? "" : gguf_file_of(dir);
    return gguf.empty() ? Json::read_file(dir + "/config.json") : gguf_config(GgufFile(gguf));
  }
  Json json = Json::object();
  json.set("text_config", Json::read_file(text));
  const std::string vision = dir + "/vision_tower/config.json";
  if (std::filesystem::exists(vision)) json.set("vision_config", Json::read_file(vision));
  return json;
}

}  // namespace

ModelConfig parse_model_config(const Json& json, const Json& mamba) {
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
  if (!mamba.is_null()) c.mamba = mamba_config(mamba, c.text);
  return c;
}

ModelConfig read_model_config(const std::string& dir) {
  const std::string mamba_file = dir + "/mamba_config.json";
  const Json json = read_config_json(dir);
  return parse_model_config(json, std::filesystem::exists(mamba_file) ? Json::read_file(mamba_file) : Json());
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
  write_file_atomic(dir + "/mamba_config.json", mamba_json(config).dump(2) + "\n");
}

}  // namespace matvlm
