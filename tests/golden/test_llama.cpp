// Checkpoints of Llama-family models as transformers' own classes wrote them (golden/llama): the same logits, at once
// and token by token; the config and the tensors come back from an export under the same names.
#include <gtest/gtest.h>

#include <functional>

#include "autograd/ops/head_loss.h"
#include "core/error.h"
#include "distill/generate.h"
#include "launch/model_folder.h"
#include "layers/config_text.h"
#include "tests/support/op_check.h"
#include "tests/support/temp_dir.h"

namespace matvlm::testing {
namespace {

const std::string kFolder = std::string(MATVLM_SOURCE_DIR) + "/tests/golden/llama/";
const std::vector<std::string> kModels = {"llama", "llama3", "linear", "qwen2", "tied"};

SplicedRows row_of(const std::vector<int32_t>& ids) { return {ids, {}, {0, static_cast<int64_t>(ids.size())}}; }

Tensor logits_of(Context& ctx, const LoadedModel& model, const std::vector<int32_t>& ids, const Pass& pass) {
  Graph g(ctx, false);
  const Var h = run_text(g, model.vlm.text, run_embedding(g, model.vlm.text, Var(), row_of(ids)), pass);
  const Affine& head = model.vlm.text.head;
  return head_logits(ctx, h.value(), head.weight.value, head.bias.value);
}

void expect_logits(Context& ctx, const std::string& name) {
  SCOPED_TRACE(name);
  const LoadedModel model = load_model_folder(ctx, kFolder + name, DType::f32);
  EXPECT_FALSE(model.config.vision.has_value());
  const TensorSource expected = TensorSource::open(kFolder + name + ".safetensors");
  for (const char* i : {"0", "1"}) {
    const auto ids = expected.read<int32_t>(std::string("input_ids.") + i);
    const std::vector<float> wanted = expected.read_floats(std::string("logits.") + i);
    const auto n = static_cast<int64_t>(ids.size());
    const Tensor whole = logits_of(ctx, model, ids, make_pass(ctx, {0, n}));
    EXPECT_LE(relative_error(whole.to_floats(ctx), wanted), 1e-4);
    DecodeState state(ctx, model.config, DType::f32, 1, n);
    std::vector<float> single;
    for (const int32_t id : ids) {
      const std::vector<float> row =
          logits_of(ctx, model, {id}, make_decode_pass(ctx, {0, 1}, state, {0})).to_floats(ctx);
      single.insert(single.end(), row.begin(), row.end());
    }
    EXPECT_LE(relative_error(single, wanted), 1e-4) << "token by token";
  }
}

TEST(Llama, LogitsOfTransformers) {
  for (const std::string& name : kModels) expect_logits(cpu(), name);
}

TEST(LlamaCuda, LogitsOfTransformers) {
  const auto ctx = new_cuda();
  for (const std::string& name : kModels) expect_logits(*ctx, name);
}

TEST(Llama, ConfigsAreReadAsTheyAreMeant) {
  const TextConfig llama3 = read_model_config(kFolder + "llama3").text;
  EXPECT_EQ(llama3.model_type, "llama");
  EXPECT_EQ(llama3.head_dim, 12);
  EXPECT_EQ(llama3.kv_heads, 2);
  EXPECT_EQ(llama3.rotary_dims, 12);
  EXPECT_EQ(llama3.rope_theta, 5e5);
  EXPECT_EQ(llama3.rope_scaling.kind, RopeScalingKind::llama3);
  EXPECT_EQ(llama3.rope_scaling.original_max_positions, 32);
  EXPECT_EQ(llama3.end_tokens, (std::vector<int64_t>{3, 5}));
  EXPECT_EQ(llama3.norm_eps, 1e-5);
  EXPECT_FALSE(llama3.block.parallel || llama3.block.qkv_bias || llama3.block.dense_bias || llama3.block.mlp_bias);
  const TextConfig linear = read_model_config(kFolder + "linear").text;
  EXPECT_TRUE(linear.block.qkv_bias && linear.block.dense_bias && linear.block.mlp_bias);
  EXPECT_EQ(linear.rope_scaling.kind, RopeScalingKind::linear);
  EXPECT_EQ(linear.rope_scaling.factor, 4.0);
  const TextConfig qwen2 = read_model_config(kFolder + "qwen2").text;
  EXPECT_TRUE(qwen2.block.qkv_bias);
  EXPECT_FALSE(qwen2.block.dense_bias || qwen2.block.mlp_bias);
  EXPECT_TRUE(qwen2.end_tokens.empty());
  EXPECT_TRUE(read_model_config(kFolder + "tied").text.tied_head);
}

TEST(Llama, ConfigsSurviveWritingInBothForms) {
  for (const std::string& name : kModels) {
    const TempDir dir;
    const ModelConfig config = read_model_config(kFolder + name);
    write_model_config(config, dir.path());
    const ModelConfig again = read_model_config(dir.path());
    EXPECT_EQ(text_config_json(again.text).dump(), text_config_json(config.text).dump()) << name;
    EXPECT_EQ(rope_frequencies(again.text), rope_frequencies(config.text)) << name;
    // transformers 4 knows `rope_scaling` and `rope_theta` alone.
    Json old = Json::read_file(dir.file("config.json"));
    old.set("rope_parameters", Json());
    EXPECT_EQ(rope_frequencies(text_config_from_json(old)), rope_frequencies(config.text)) << name;
  }
}

std::string config_error(const std::string& name, const std::function<void(Json&)>& change) {
  Json json = Json::read_file(kFolder + name + "/config.json");
  change(json);
  try {
    text_config_from_json(json);
  } catch (const Error& error) {
    const std::string message = error.what();
    return message.substr(message.find("config.json"));
  }
  return "no error";
}

TEST(Llama, OptionsThatAreNotSupportedAreRefusedByName) {
  const auto rope = [](const char* text) {
    return [text](Json& j) { j.set("rope_scaling", Json::parse(text, "config.json: key 'rope_scaling'")); };
  };
  EXPECT_EQ(config_error("llama", [](Json&) {}), "no error");
  EXPECT_EQ(config_error("llama", rope(R"({"type": "yarn", "factor": 2})")),
            "config.json: key 'rope_scaling': key 'rope_type': found 'yarn', expected 'default', 'linear' or 'llama3'");
  EXPECT_EQ(config_error("llama", rope(R"({"type": "linear", "factor": 0.5})")),
            "config.json: key 'rope_scaling': key 'factor': found 0.5, expected a number of at least 1");
  EXPECT_EQ(config_error("llama",
                         rope(R"({"rope_type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 4})")),
            "config.json: key 'rope_scaling': keys 'low_freq_factor' and 'high_freq_factor': found 4 and 4, expected "
            "two rising "
            "positive numbers");
  EXPECT_EQ(config_error("llama", [](Json& j) { j.set("hidden_act", "gelu"); }),
            "config.json: key 'hidden_act': found 'gelu', expected 'silu'");
  EXPECT_EQ(config_error("qwen2", [](Json& j) { j.set("use_sliding_window", true); }),
            "config.json: key 'use_sliding_window': found true, which is not supported");
  EXPECT_EQ(config_error("qwen2",
                         [](Json& j) {
                           j.set("layer_types", Json::parse(R"(["full_attention", "sliding_attention"])",
                                                            "config.json: key 'layer_types'"));
                         }),
            "config.json: key 'layer_types': found 'sliding_attention' for layer 1, expected 'full_attention' in every "
            "layer");
  EXPECT_EQ(config_error("llama", [](Json& j) { j.set("head_dim", 7); }),
            "config.json: key 'head_dim': found 7, expected an even number");
  EXPECT_EQ(config_error("llama", [](Json& j) { j.set("rope_scaling", 3); }),
            "config.json: key 'rope_scaling': found 3, expected an object or null");
}

TEST(Llama, ATiedHeadMayBeStoredTwice) {
  const ModelConfig config = read_model_config(kFolder + "tied");
  EXPECT_TRUE(is_unused_tensor(config, "lm_head.weight"));
  EXPECT_FALSE(is_unused_tensor(read_model_config(kFolder + "llama"), "lm_head.weight"));
}

TEST(Llama, GeneratesUntilTheLengthIsReached) {
  const LoadedModel model = load_model_folder(cpu(), kFolder + "llama3", DType::f32);
  TokenRows prompt;
  prompt.ids = {1, 7, 9, 11};
  prompt.cu = {0, 4};
  prompt.image_of_row = {-1};
  GenerateOptions options;
  options.max_new_tokens = 6;
  const auto out = generate_tokens(cpu(), model.vlm, prompt, Tensor(), DType::f32, options);
  ASSERT_EQ(out.size(), 1U);
  ASSERT_EQ(out[0].size(), 6U);
  // Greedy: the arg max of the whole text's logits, position by position.
  std::vector<int32_t> ids = prompt.ids;
  for (const int32_t token : out[0]) {
    const Tensor logits = logits_of(cpu(), model, ids, make_pass(cpu(), {0, static_cast<int64_t>(ids.size())}));
    EXPECT_EQ(argmax_rows(cpu(), logits).back(), token);
    ids.push_back(token);
  }
}

}  // namespace
}  // namespace matvlm::testing
