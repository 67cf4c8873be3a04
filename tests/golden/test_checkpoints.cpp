// Checkpoints that transformers' own classes wrote (tests/golden/checkpoints), one model in every layout: the same
// tensors, and the logits that those classes give.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "autograd/ops/head_loss.h"
#include "core/error.h"
#include "core/file.h"
#include "core/gguf_blocks.h"
#include "core/gguf_model.h"
#include "core/safetensors.h"
#include "core/tensor_source.h"
#include "data/tokenizer.h"
#include "launch/model_folder.h"
#include "layers/config.h"
#include "layers/tensors.h"
#include "layers/weights.h"
#include "tests/support/temp_dir.h"
#include "tests/support/vlm_logits.h"

namespace matvlm::testing {
namespace {

const std::string kFolder = std::string(MATVLM_SOURCE_DIR) + "/tests/golden/checkpoints";

Context& ctx() {
  static const std::unique_ptr<Context> context = make_cpu_context(2);
  return *context;
}

struct Layout {
  const char* folder;
  const char* type;
  const char* logits;
};
constexpr Layout kLayouts[] = {
    {"single", "F32", "logits.float32"},       {"sharded", "F32", "logits.float32"},
    {"bin", "F32", "logits.float32"},          {"bin-strided", "F32", "logits.float32"},
    {"bin-deflated", "F32", "logits.float32"}, {"bin-sharded", "F32", "logits.float32"},
    {"parts", "F32", "logits.float32"},        {"bf16", "BF16", "logits.bfloat16"},
    {"bin-bf16", "BF16", "logits.bfloat16"},   {"f16", "F16", "logits.float16"},
    {"bin-f16", "F16", "logits.float16"},
};

class Checkpoints : public ::testing::TestWithParam<Layout> {};

TEST_P(Checkpoints, GiveTheLogitsOfTransformers) {
  const TensorSource expected = TensorSource::open(kFolder + "/expected.safetensors");
  const std::vector<float> wanted = expected.read_floats(GetParam().logits);
  const std::vector<float> found = vlm_logits(ctx(), kFolder + "/" + GetParam().folder, expected.read<int32_t>("ids"),
                                              expected.read_floats("image"));
  EXPECT_LE(largest_difference(found, wanted), 1e-4);
  // The bound means something: logits are of the order of one.
  EXPECT_GT(largest_difference(std::vector<float>(wanted.size(), 0.0F), wanted), 0.3);
}

TEST_P(Checkpoints, HoldTheSameTensors) {
  const TensorSource single = TensorSource::open(kFolder + "/single");
  const TensorSource other = TensorSource::open(kFolder + "/" + GetParam().folder);
  ASSERT_EQ(other.names(), single.names());
  for (const std::string& name : single.names()) {
    EXPECT_EQ(other.info(name).shape, single.info(name).shape) << name;
    EXPECT_EQ(other.info(name).type, GetParam().type) << name;
    std::vector<float> wanted = single.read_floats(name);
    const bool narrow = other.info(name).dtype == DType::bf16;
    const bool half = other.info(name).dtype == DType::f16;
    for (float& x : wanted) x = narrow ? static_cast<float>(bf16(x)) : half ? half_to_float(float_to_half(x)) : x;
    EXPECT_EQ(other.read_floats(name), wanted) << name;
    EXPECT_EQ(other.read_bytes(name).size(), wanted.size() * static_cast<size_t>(dtype_size(*other.info(name).dtype)));
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, Checkpoints, ::testing::ValuesIn(kLayouts), [](const auto& layout) {
  std::string name = layout.param.folder;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

// What is stored as it is wanted takes the way without a conversion, and is looked through for NaN on it.
TEST(CheckpointWeights, NarrowTensorsAreLoadedAsTheyAre) {
  const ModelConfig config = read_model_config(kFolder + "/bf16");
  for (const char* folder : {"/bf16", "/bin-bf16"}) {
    const TensorSource source = TensorSource::open(kFolder + folder);
    const ModelWeights weights = load_frozen_weights(ctx(), config, source, DType::bf16);
    for (const auto& [name, tensor] : weights.frozen()) {
      EXPECT_EQ(tensor.dtype(), DType::bf16) << name;
      EXPECT_EQ(tensor.to_floats(ctx()), source.read_floats(name_in_source(source, name))) << name;
    }
  }
  const TempDir dir;
  std::string content = read_file(kFolder + "/bf16/model.safetensors");
  const SafetensorsFile file(kFolder + "/bf16/model.safetensors");
  const std::string name = "language_model.lm_head.bias";
  const size_t at = content.size() - static_cast<size_t>(file.infos().back().end - file.info(name).begin);
  content[at + 6] = '\x80';  // element 3 becomes an infinity
  content[at + 7] = '\x7f';
  write_file_atomic(dir.file("model.safetensors"), content);
  try {
    load_frozen_weights(ctx(), config, TensorSource::open(dir.path()), DType::bf16);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.what(), dir.path() + ": '" + name + "': found inf at element 3, expected finite numbers");
  }
}

TEST(CheckpointParts, MissingPartsAndMisshapenTensorsAreOneError) {
  const TempDir dir;
  const std::string parts = kFolder + "/parts";
  std::filesystem::copy(parts, dir.path(), std::filesystem::copy_options::recursive);
  std::filesystem::remove_all(dir.file("connector"));
  std::filesystem::copy(kFolder + "/bin/pytorch_model.bin", dir.file("x.bin"));
  const ModelConfig config = read_model_config(dir.path());
  std::string message = "no error";
  try {
    check_source(config, TensorSource::open(dir.path()));
  } catch (const Error& error) {
    message = error.what();
  }
  for (const char* name : {"0.weight' [16, 12]", "0.bias' [16]", "2.weight' [16, 16]", "2.bias' [16]"}) {
    EXPECT_NE(message.find(cat("missing 'connector._connector.", name)), std::string::npos) << message;
  }
  EXPECT_EQ(message.find("language_model"), std::string::npos) << message;
}

TEST(CheckpointGguf, BlocksAgreeWithTheReferenceReader) {
  const TensorSource fixture = TensorSource::open(kFolder + "/gguf/blocks.safetensors");
  for (const char* name : {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K"}) {
    const GgufType* type = find_gguf_type(name);
    ASSERT_NE(type, nullptr) << name;
    const std::vector<float> wanted = fixture.read_floats(cat(name, ".values"));
    const std::span<const std::byte> blocks = fixture.bytes(cat(name, ".blocks"));
    ASSERT_EQ(static_cast<int64_t>(blocks.size()), 3 * type->bytes) << name;
    std::vector<float> found(wanted.size());
    dequantise_blocks(*type, blocks, found);
    for (size_t i = 0; i < wanted.size(); ++i) {
      // The compiler may fuse d * q + m, where the reference rounds twice.
      EXPECT_NEAR(found[i], wanted[i], 2e-7 * (std::abs(wanted[i]) + 2.0)) << name << " value " << i;
    }
  }
}

// A language model's own checkpoint, loaded as teachers are: `model` in each layout.
std::vector<float> text_logits(const std::string& path, const std::vector<int32_t>& ids) {
  const LoadedModel model = load_model(ctx(), path, DType::f32);
  const auto n = static_cast<int64_t>(ids.size());
  const SplicedRows row{ids, {}, {0, n}};
  Graph g(ctx(), false);
  const Var embedded = run_embedding(g, model.vlm.text, Var(), row);
  const Tensor h = run_text(g, model.vlm.text, embedded, make_pass(ctx(), row.cu)).value();
  const Affine& head = model.vlm.text.head;
  return head_logits(ctx(), h, head.weight.value, head.bias.value).to_floats(ctx());
}

TEST(CheckpointLlama, LogitsOfTransformersInEveryLayout) {
  const TensorSource expected = TensorSource::open(kFolder + "/llama/expected.safetensors");
  const auto ids = expected.read<int32_t>("ids");
  const std::vector<float> wanted = expected.read_floats("logits");
  for (const char* layout : {"/llama", "/llama-bin", "/llama-sharded", "/gguf/plain.gguf"}) {
    EXPECT_LE(largest_difference(text_logits(kFolder + layout, ids), wanted), 1e-4) << layout;
  }
  EXPECT_GT(largest_difference(std::vector<float>(wanted.size(), 0.0F), wanted), 0.3);
}

TEST(CheckpointLlama, QuantisedTeacherIsLoadedByItsValues) {
  const TempDir dir;
  std::filesystem::copy(kFolder + "/gguf/quantised.safetensors", dir.file("model.safetensors"));
  std::filesystem::copy(kFolder + "/llama/config.json", dir.file("config.json"));
  const std::vector<int32_t> ids = {3, 7, 11, 0, 47, 5, 21};
  EXPECT_LE(largest_difference(text_logits(kFolder + "/gguf/quantised.gguf", ids), text_logits(dir.path(), ids)), 1e-4);
}

TEST(CheckpointLlama, TokenizerOfAGgufModelFitsIt) {
  const LoadedModel model = load_model(ctx(), kFolder + "/gguf/plain.gguf", DType::f32);
  EXPECT_EQ(load_tokenizer(model).vocab_size(), model.config.text.vocab);
  EXPECT_EQ(model.config.text.end_tokens, (std::vector<int64_t>{1}));
}

TEST(CheckpointGguf, PlainModelEqualsItsSource) {
  const TensorSource gguf = TensorSource::open(kFolder + "/gguf/plain.gguf");
  const TensorSource source = TensorSource::open(kFolder + "/llama");
  ASSERT_EQ(gguf.names(), source.names());
  for (const std::string& name : source.names()) {
    EXPECT_EQ(gguf.info(name).shape, source.info(name).shape) << name;
    EXPECT_EQ(gguf.read_floats(name), source.read_floats(name)) << name;
    const std::span<const std::byte> wanted = source.bytes(name);
    EXPECT_EQ(gguf.read_bytes(name), std::vector<std::byte>(wanted.begin(), wanted.end())) << name;
  }
}

TEST(CheckpointGguf, QuantisedModelAgreesWithTheReferenceReader) {
  const TensorSource gguf = TensorSource::open(kFolder + "/gguf/quantised.gguf");
  const TensorSource values = TensorSource::open(kFolder + "/gguf/quantised.safetensors");
  ASSERT_EQ(gguf.names(), values.names());
  std::map<std::string, int> types;
  for (const std::string& name : values.names()) {
    ++types[gguf.info(name).type];
    EXPECT_LE(largest_difference(gguf.read_floats(name), values.read_floats(name)), 1e-6) << name;
  }
  for (const char* type : {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16", "F32"})
    EXPECT_GT(types[type], 0) << type;
}

TEST(CheckpointGguf, ConfigIsThatOfTheModel) {
  const Json found = gguf_config(GgufFile(kFolder + "/gguf/quantised.gguf"));
  const Json wanted = Json::read_file(kFolder + "/llama/config.json");
  for (const char* key : {"model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "num_key_value_heads", "head_dim", "max_position_embeddings", "vocab_size", "rms_norm_eps",
                          "hidden_act", "attention_bias", "mlp_bias", "tie_word_embeddings"}) {
    EXPECT_EQ(found.at(key).dump(), wanted.at(key).dump()) << key;
  }
  EXPECT_EQ(found.at("rope_theta").as_double(), wanted.at("rope_parameters").at("rope_theta").as_double());
  EXPECT_TRUE(found.at("rope_scaling").is_null());
  EXPECT_EQ(found.at("bos_token_id").as_int(), 0);
  EXPECT_EQ(found.at("eos_token_id").as_int(), 1);
}

TEST(CheckpointGguf, TokenizerIsHuggingFaces) {
  const GgufFile file(kFolder + "/gguf/plain.gguf");
  const Json tokenizer = Json::parse(gguf_tokenizer_json(file), "tokenizer");
  EXPECT_EQ(tokenizer.at("model").at("vocab").size(), 261);
  EXPECT_EQ(tokenizer.at("model").at("vocab").at("\xC4\xA0the").as_int(), 260);
  EXPECT_EQ(tokenizer.at("model").at("merges").dump(), R"(["t h","th e","Ġ the"])");
  EXPECT_EQ(tokenizer.at("added_tokens").size(), 2);
  EXPECT_TRUE(tokenizer.at("added_tokens").at(int64_t{0}).at("special").as_bool());
  EXPECT_FALSE(tokenizer.at("added_tokens").at(1).at("special").as_bool());
  EXPECT_EQ(tokenizer.at("pre_tokenizer").at("pretokenizers").at(int64_t{0}).at("type").as_string(), "Digits");
  EXPECT_NE(gguf_chat_template(file).find("messages"), std::string::npos);
}

TEST(CheckpointGguf, TokenizerIsReadFromTheFile) {
  const Tokenizer tokenizer = Tokenizer::read_file(kFolder + "/gguf/quantised.gguf");
  EXPECT_EQ(tokenizer.vocab_size(), 261);
  EXPECT_EQ(tokenizer.encode("<|begin|> the<|end|>"), (std::vector<int32_t>{0, 260, 1}));
  EXPECT_EQ(tokenizer.encode("the"), (std::vector<int32_t>{259}));
}

}  // namespace
}  // namespace matvlm::testing
