// config.json and mamba_config.json: what is written is read back, what a checkpoint leaves out takes the published
// defaults, and what does not fit is refused with file, key, found and expected.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "core/error.h"
#include "core/file.h"
#include "layers/config.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace matvlm::testing {
namespace {

// A folder with a config.json (and a mamba_config.json) that a test then changes.
class Folder {
 public:
  Json text = Json::parse(R"({"model_type": "phi", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "hidden_act": "gelu_new",
    "partial_rotary_factor": 0.5})",
                          "");
  Json vision = Json::parse(R"({"model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 48,
    "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 28, "patch_size": 14,
    "hidden_act": "gelu_pytorch_tanh"})",
                            "");
  Json top = Json::object();
  Json mamba;

  ModelConfig read() {
    top.set("text_config", text).set("vision_config", vision);
    write_file_atomic(dir_.file("config.json"), top.dump());
    if (mamba.is_object()) write_file_atomic(dir_.file("mamba_config.json"), mamba.dump());
    return read_model_config(dir_.path());
  }
  // The error of read() without the folder's name.
  std::string error() {
    try {
      read();
    } catch (const Error& error) {
      const std::string message = error.what();
      const std::string prefix = dir_.path() + "/";
      return message.starts_with(prefix) ? message.substr(prefix.size()) : "no file: " + message;
    }
    return "no error";
  }

 private:
  TempDir dir_;
};

std::string text_error(const std::function<void(Json&)>& change) {
  Folder folder;
  change(folder.text);
  return folder.error();
}
std::string vision_error(const std::function<void(Json&)>& change) {
  Folder folder;
  change(folder.vision);
  return folder.error();
}
std::string top_error(const std::function<void(Json&)>& change) {
  Folder folder;
  change(folder.top);
  return folder.error();
}
std::string mamba_error(const std::string& text) {
  Folder folder;
  folder.mamba = Json::parse(text, "");
  return folder.error();
}

void expect_same_text(const TextConfig& a, const TextConfig& b) {
  EXPECT_EQ(a.model_type, b.model_type);
  EXPECT_EQ(a.hidden, b.hidden);
  EXPECT_EQ(a.layers, b.layers);
  EXPECT_EQ(a.heads, b.heads);
  EXPECT_EQ(a.kv_heads, b.kv_heads);
  EXPECT_EQ(a.head_dim, b.head_dim);
  EXPECT_EQ(a.mlp, b.mlp);
  EXPECT_EQ(a.vocab, b.vocab);
  EXPECT_EQ(a.rotary_dims, b.rotary_dims);
  EXPECT_EQ(a.rope_theta, b.rope_theta);
  EXPECT_EQ(a.norm_eps, b.norm_eps);
  EXPECT_EQ(a.max_positions, b.max_positions);
  EXPECT_EQ(a.tied_head, b.tied_head);
}

void expect_same_vision(const VisionConfig& a, const VisionConfig& b) {
  EXPECT_EQ(a.hidden, b.hidden);
  EXPECT_EQ(a.mlp, b.mlp);
  EXPECT_EQ(a.layers, b.layers);
  EXPECT_EQ(a.heads, b.heads);
  EXPECT_EQ(a.image_size, b.image_size);
  EXPECT_EQ(a.patch_size, b.patch_size);
  EXPECT_EQ(a.norm_eps, b.norm_eps);
  EXPECT_EQ(a.feature_layer, b.feature_layer);
  EXPECT_EQ(a.drop_first_patch, b.drop_first_patch);
}

// No value is a default, so that a key that is not written or not read shows.
ModelConfig unusual_config() {
  ModelConfig c = tiny_config(1);
  c.text.head_dim = 10;  // heads x width is not the model's width
  c.text.rotary_dims = 6;
  c.text.rope_theta = 5e5;
  c.text.norm_eps = 3e-5;
  c.text.max_positions = 333;
  c.vision->feature_layer = -1;
  c.vision->drop_first_patch = false;
  c.vision->norm_eps = 7e-6;
  c.mamba.ssm_layers = {1, 3};
  c.mamba.is_bias = true;
  c.mamba.conv_width = 3;
  c.max_length = 77;
  c.image_aspect = "pad";
  return c;
}

TEST(ModelConfigFiles, RoundTrip) {
  for (const bool student : {true, false}) {
    for (const bool vision : {true, false}) {
      const TempDir dir;
      ModelConfig written = unusual_config();
      if (!student) written.mamba = MambaConfig();
      if (!vision) {
        written.vision.reset();
        written.image_aspect = "square";
      }
      write_model_config(written, dir.path());
      EXPECT_EQ(std::filesystem::exists(dir.file("mamba_config.json")), student);
      const ModelConfig read = read_model_config(dir.path());
      expect_same_text(read.text, written.text);
      ASSERT_EQ(read.vision.has_value(), vision);
      if (vision) expect_same_vision(*read.vision, *written.vision);
      EXPECT_EQ(read.mamba.ssm_layers, written.mamba.ssm_layers);
      EXPECT_EQ(read.mamba.is_bias, written.mamba.is_bias);
      EXPECT_EQ(read.mamba.conv_width, written.mamba.conv_width);
      EXPECT_EQ(read.max_length, written.max_length);
      EXPECT_EQ(read.image_aspect, written.image_aspect);
    }
  }
}

// The reader truncates factor x width as transformers does; the factor written must not lose two dimensions to
// rounding.
TEST(ModelConfigFiles, EveryRotaryWidthSurvivesItsFraction) {
  const TempDir dir;
  for (const int64_t width : {2, 8, 16, 49, 64, 72, 80, 96, 128}) {
    for (int64_t rotary = 0; rotary <= width; rotary += 2) {
      ModelConfig config = tiny_config();
      config.text.head_dim = width;
      config.text.rotary_dims = rotary;
      write_model_config(config, dir.path());
      ASSERT_EQ(read_model_config(dir.path()).text.rotary_dims, rotary) << width;
    }
  }
}

TEST(ModelConfigFiles, WhatIsLeftOutTakesThePublishedDefaults) {
  Folder folder;
  folder.text = Json::parse(R"({"model_type": "phi", "hidden_size": 2560, "intermediate_size": 10240,
    "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 51200,
    "rope_parameters": {"rope_theta": 20000.0, "partial_rotary_factor": 0.4}})",
                            "");
  folder.vision = Json::parse(R"({"model_type": "siglip_vision_model"})", "");
  const ModelConfig c = folder.read();
  EXPECT_EQ(c.text.kv_heads, 32);
  EXPECT_EQ(c.text.head_dim, 80);
  EXPECT_EQ(c.text.rotary_dims, 32);
  EXPECT_EQ(c.text.rope_theta, 20000.0);
  EXPECT_EQ(c.text.norm_eps, 1e-5);
  EXPECT_EQ(c.vision->hidden, 768);
  EXPECT_EQ(c.vision->image_size, 224);
  EXPECT_EQ(c.vision->norm_eps, 1e-6);
  EXPECT_EQ(c.vision->feature_layer, -2);
  EXPECT_TRUE(c.vision->drop_first_patch);  // select strategy `patch`
  EXPECT_EQ(c.tokens_per_image(), 195);
  EXPECT_TRUE(c.mamba.ssm_layers.empty());
}

TEST(ModelConfigFiles, SelectStrategyAndFeatureLayer) {
  Folder folder;
  folder.top.set("vision_feature_select_strategy", "cls_patch").set("vision_feature_layer", -3);
  ModelConfig c = folder.read();
  EXPECT_FALSE(c.vision->drop_first_patch);
  EXPECT_EQ(c.tokens_per_image(), 4);
  EXPECT_EQ(c.vision->blocks_used(), 1);  // hidden_states[-3] of 3 blocks: after the first
  folder.top.set("vision_feature_select_strategy", "patch").set("vision_feature_layer", -4);
  c = folder.read();
  EXPECT_EQ(c.tokens_per_image(), 3);
  EXPECT_EQ(c.vision->blocks_used(), 0);
}

// A config.json of a language model alone, as transformers writes it.
TEST(ModelConfigFiles, APlainLanguageModel) {
  const TempDir dir;
  const Folder folder;
  write_file_atomic(dir.file("config.json"), folder.text.dump());
  const ModelConfig c = read_model_config(dir.path());
  EXPECT_EQ(c.text.hidden, 32);
  EXPECT_FALSE(c.vision.has_value());
  EXPECT_EQ(c.tokens_per_image(), 0);
}

TEST(ModelConfigErrors, LanguageModel) {
  const std::string where = "config.json: key 'text_config'";
  EXPECT_EQ(text_error([](Json&) {}), "no error");
  EXPECT_EQ(text_error([](Json& j) { j.set("model_type", "gpt2"); }),
            where + ": key 'model_type': found 'gpt2', expected 'phi', 'llama' or 'qwen2'");
  EXPECT_EQ(text_error([](Json& j) { j.set("hidden_act", "relu"); }),
            where + ": key 'hidden_act': found 'relu', expected 'gelu_new'");
  EXPECT_EQ(text_error([](Json& j) { j.set("num_attention_heads", 5).set("num_key_value_heads", 5); }),
            where + ": key 'num_attention_heads': found 5, expected a divisor of the width 32");
  EXPECT_EQ(text_error([](Json& j) { j.set("num_key_value_heads", 3); }),
            where + ": key 'num_key_value_heads': found 3, expected a divisor of the 4 heads");
  EXPECT_EQ(
      text_error([](Json& j) { j.set("partial_rotary_factor", 0.4); }),
      where + ": key 'partial_rotary_factor': found 0.4, which rotates 3 of 8 dimensions, expected an even number");
  EXPECT_EQ(
      text_error([](Json& j) { j.set("partial_rotary_factor", 1.25); }),
      where + ": key 'partial_rotary_factor': found 1.25, which rotates 10 of 8 dimensions, expected an even number");
  EXPECT_EQ(text_error([](Json& j) { j.set("qk_layernorm", true); }),
            where + ": key 'qk_layernorm': found true, which is not supported");
  EXPECT_EQ(text_error([](Json& j) { j.set("rope_scaling", Json::parse(R"({"type": "linear", "factor": 2})", "")); }),
            where + ": key 'rope_scaling': found a value, which is not supported");
  EXPECT_EQ(text_error([](Json& j) { j.set("tie_word_embeddings", true); }),
            where + ": key 'tie_word_embeddings': found true, expected false for phi");
  EXPECT_EQ(text_error([](Json& j) { j.set("vocab_size", 0); }),
            where + ": key 'vocab_size': found 0, expected a positive number");
  EXPECT_EQ(text_error([](Json& j) { j.set("rope_parameters", Json::parse(R"({"rope_type": "yarn"})", "")); }),
            "config.json: key 'text_config.rope_parameters': key 'rope_type': found 'yarn', expected 'default'");
  // Kinds of values are the JSON reader's to check; the message names file and path too.
  const std::string kind = text_error([](Json& j) { j.set("hidden_size", "wide"); });
  EXPECT_TRUE(kind.starts_with("config.json: key 'text_config.hidden_size': ")) << kind;
}

TEST(ModelConfigErrors, VisionTower) {
  const std::string where = "config.json: key 'vision_config'";
  EXPECT_EQ(vision_error([](Json& j) { j.set("model_type", "clip_vision_model"); }),
            where + ": key 'model_type': found 'clip_vision_model', expected 'siglip_vision_model'");
  EXPECT_EQ(vision_error([](Json& j) { j.set("hidden_act", "quick_gelu"); }),
            where + ": key 'hidden_act': found 'quick_gelu', expected 'gelu_pytorch_tanh'");
  EXPECT_EQ(vision_error([](Json& j) { j.set("num_attention_heads", 5); }),
            where + ": key 'num_attention_heads': found 5, expected a divisor of the width 24");
  EXPECT_EQ(vision_error([](Json& j) { j.set("num_channels", 1); }),
            where + ": key 'num_channels': found 1, expected 3");
  EXPECT_EQ(vision_error([](Json& j) { j.set("patch_size", 29); }),
            where + ": key 'patch_size': found 29, expected at most the image's 28");
  EXPECT_EQ(vision_error([](Json& j) { j.set("image_size", -28); }),
            where + ": found a size of -28, expected positive numbers");
  // `patch` of the only one.
  EXPECT_EQ(vision_error([](Json& j) { j.set("patch_size", 28); }), where + ": no image token is left of 1 patches");
}

TEST(ModelConfigErrors, SwitchesOfTheWholeModel) {
  EXPECT_EQ(top_error([](Json& j) { j.set("vision_feature_select_strategy", "cls"); }),
            "config.json: key 'vision_config': key 'vision_feature_select_strategy': found 'cls', expected 'patch' or "
            "'cls_patch'");
  EXPECT_EQ(top_error([](Json& j) { j.set("vision_feature_layer", 2); }),
            "config.json: key 'vision_config': key 'vision_feature_layer': found 2, expected -4 to -1");
  EXPECT_EQ(top_error([](Json& j) { j.set("vision_feature_layer", -5); }),
            "config.json: key 'vision_config': key 'vision_feature_layer': found -5, expected -4 to -1");
  EXPECT_EQ(top_error([](Json& j) { j.set("image_aspect_ratio", "anyres"); }),
            "config.json: key 'image_aspect_ratio': found 'anyres', expected 'square' or 'pad'");
}

TEST(ModelConfigErrors, MambaLayers) {
  EXPECT_EQ(mamba_error(R"({"ssm_layers": [0, 3], "d_inner": 32, "d_xb": 16, "d_state": 8, "d_conv": 4})"), "no error");
  EXPECT_EQ(mamba_error(R"({"ssm_layers": [0, 4]})"),
            "mamba_config.json: key 'ssm_layers': found layer 4, expected 0 to 3");
  EXPECT_EQ(mamba_error(R"({"ssm_layers": [-1]})"),
            "mamba_config.json: key 'ssm_layers': found layer -1, expected 0 to 3");
  EXPECT_EQ(mamba_error(R"({"ssm_layers": [2, 2]})"),
            "mamba_config.json: key 'ssm_layers': found 2 after 2, expected ascending layers");
  EXPECT_EQ(mamba_error(R"({"ssm_layers": [2, 1]})"),
            "mamba_config.json: key 'ssm_layers': found 1 after 2, expected ascending layers");
  EXPECT_EQ(mamba_error(R"({"ssm_layers": [0], "d_inner": 64})"),
            "mamba_config.json: key 'd_inner': found 64, expected 32 for this language model");
  EXPECT_EQ(mamba_error(R"({"ssm_layers": [0], "d_xb": 32})"),
            "mamba_config.json: key 'd_xb': found 32, expected 16 for this language model");
  EXPECT_EQ(mamba_error(R"({"ssm_layers": [0], "d_state": 16})"),
            "mamba_config.json: key 'd_state': found 16, expected 8 for this language model");
  EXPECT_EQ(mamba_error(R"({"ssm_layers": [0], "d_conv": 5})"),
            "mamba_config.json: key 'd_conv': found 5, expected 2 to 4");
  const std::string missing = mamba_error(R"({"is_bias": true})");
  EXPECT_TRUE(missing.starts_with("mamba_config.json") && missing.find("'ssm_layers'") != std::string::npos) << missing;
  const std::string no_list = mamba_error(R"({"ssm_layers": 3})");
  EXPECT_TRUE(no_list.starts_with("mamba_config.json") && no_list.find("'ssm_layers'") != std::string::npos) << no_list;
}

TEST(ModelConfigErrors, FilesThatAreNoConfig) {
  const TempDir dir;
  const auto error = [&] {
    try {
      read_model_config(dir.path());
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_TRUE(error().starts_with(dir.file("config.json"))) << error();
  for (const char* text : {"", "{", "[]", "{\"text_config\": 3}"}) {
    write_file_atomic(dir.file("config.json"), text);
    EXPECT_TRUE(error().starts_with(dir.file("config.json"))) << error();
  }
}

TEST(ModelConfig, MambaLayersAreFound) {
  const MambaConfig m{{1, 4}, false, 4, 1e-5};
  EXPECT_TRUE(m.contains(1) && m.contains(4));
  EXPECT_FALSE(m.contains(0) || m.contains(2) || m.contains(5));
}

}  // namespace
}  // namespace matvlm::testing
