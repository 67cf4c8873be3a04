// Names and shapes of a model's tensors, what a checkpoint may spell otherwise or carry beside them, and the list of
// everything in it that does not fit.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/safetensors.h"
#include "layers/tensors.h"
#include "layers/weights.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace matvlm::testing {
namespace {

const std::string kTower = "vision_tower._vision_tower.";

// A file with the tensors of a config, which a test then changes.
class Checkpoint {
 public:
  explicit Checkpoint(const ModelConfig& config) {
    for (const ModelTensor& t : model_tensors(config)) tensors[t.name] = {t.name, DType::f32, t.shape};
  }
  std::map<std::string, TensorSpec> tensors;

  void add(const std::string& name, Shape shape = {2}) { tensors[name] = {name, DType::f32, std::move(shape)}; }
  void rename(const std::string& from, const std::string& to) {
    TensorSpec spec = tensors.at(from);
    spec.name = to;
    tensors.erase(from);
    tensors[to] = spec;
  }
  TensorSource open() {
    const std::string path = dir_.file("model.safetensors");
    std::vector<TensorSpec> specs;
    for (const auto& [name, spec] : tensors) specs.push_back(spec);
    SafetensorsWriter writer(path, specs);
    for (const TensorSpec& spec : writer.order()) {
      writer.append(spec.name, std::vector<std::byte>(static_cast<size_t>(shape_numel(spec.shape)) *
                                                      static_cast<size_t>(dtype_size(spec.dtype))));
    }
    writer.commit();
    return TensorSource::open(path);
  }
  // What check_source says, without the file's name.
  std::string error(const ModelConfig& config) {
    try {
      check_source(config, open());
    } catch (const Error& error) {
      const std::string message = error.what();
      const std::string prefix = dir_.file("model.safetensors") + ": tensors do not fit the config";
      return message.starts_with(prefix) ? message.substr(prefix.size()) : "no file: " + message;
    }
    return "no error";
  }

 private:
  TempDir dir_;
};

ModelConfig student() { return student_config(tiny_config(), tiny_student()); }

TEST(ModelTensors, NamesAndShapesOfAStudent) {
  std::map<std::string, Shape> shapes;
  std::vector<std::string> float32;
  const std::vector<ModelTensor> tensors = model_tensors(student());
  for (const ModelTensor& t : tensors) {
    shapes[t.name] = t.shape;
    if (t.keep_float32) float32.push_back(t.name);
  }
  EXPECT_EQ(shapes.size(), tensors.size());  // no name twice
  const std::string layer = "language_model.model.layers.";
  // H P = 32, K P = K N = 16: z 32, x 16, B 16, C 32, dt 4.
  EXPECT_EQ(shapes.at(layer + "0.mamba.in_proj.weight"), (Shape{100, 32}));
  EXPECT_EQ(shapes.at(layer + "0.mamba.conv1d.weight"), (Shape{64, 1, 4}));
  EXPECT_EQ(shapes.at(layer + "0.mamba.conv1d.bias"), (Shape{64}));
  EXPECT_EQ(shapes.at(layer + "2.mamba.A_log"), (Shape{4}));
  EXPECT_EQ(shapes.at(layer + "2.mamba.norm.weight"), (Shape{32}));
  EXPECT_EQ(shapes.at(layer + "2.mamba.out_proj.weight"), (Shape{32, 32}));
  EXPECT_FALSE(shapes.contains(layer + "0.mamba.in_proj.bias"));
  EXPECT_FALSE(shapes.contains(layer + "0.self_attn.q_proj.weight"));
  EXPECT_EQ(shapes.at(layer + "1.self_attn.q_proj.weight"), (Shape{32, 32}));
  EXPECT_EQ(shapes.at(layer + "1.self_attn.k_proj.weight"), (Shape{16, 32}));
  EXPECT_EQ(shapes.at(layer + "1.self_attn.v_proj.bias"), (Shape{16}));
  EXPECT_EQ(shapes.at(layer + "3.mlp.fc1.weight"), (Shape{48, 32}));
  EXPECT_EQ(shapes.at("language_model.lm_head.bias"), (Shape{61}));
  EXPECT_EQ(shapes.at("connector._connector.0.weight"), (Shape{32, 16}));
  EXPECT_EQ(shapes.at(kTower + "vision_model.embeddings.patch_embedding.weight"), (Shape{16, 3, 4, 4}));
  EXPECT_EQ(shapes.at(kTower + "vision_model.embeddings.position_embedding.weight"), (Shape{4, 16}));
  EXPECT_TRUE(shapes.contains(kTower + "vision_model.encoder.layers.0.mlp.fc2.bias"));
  EXPECT_FALSE(shapes.contains(kTower + "vision_model.encoder.layers.1.mlp.fc2.bias"));  // block 2 of 2 does not run
  const std::vector<std::string> expected = {layer + "0.mamba.A_log", layer + "0.mamba.D", layer + "0.mamba.dt_bias",
                                             layer + "2.mamba.A_log", layer + "2.mamba.D", layer + "2.mamba.dt_bias"};
  EXPECT_EQ(float32, expected);
}

TEST(ModelTensors, BiasesOfMixers) {
  ModelConfig config = student();
  config.mamba.is_bias = true;
  std::map<std::string, Shape> shapes;
  for (const ModelTensor& t : mamba_tensors(config, 2)) shapes[t.name] = t.shape;
  EXPECT_EQ(shapes.size(), 10U);
  EXPECT_EQ(shapes.at("language_model.model.layers.2.mamba.in_proj.bias"), (Shape{100}));
  EXPECT_EQ(shapes.at("language_model.model.layers.2.mamba.out_proj.bias"), (Shape{32}));
}

TEST(CheckSource, AcceptsWhatFits) {
  EXPECT_EQ(Checkpoint(student()).error(student()), "no error");
  ModelConfig text_only = student();
  text_only.vision.reset();
  Checkpoint text(text_only);
  EXPECT_EQ(text.error(text_only), "no error");
  text.add(kTower + "vision_model.encoder.layers.0.mlp.fc1.bias");  // a tower that this config does not read
  EXPECT_EQ(text.error(text_only), "no error");
}

TEST(CheckSource, AcceptsNamesOfTransformers5) {
  Checkpoint file(student());
  const std::string prefix = kVisionPrefix;
  std::vector<std::string> names;
  for (const auto& [name, spec] : file.tensors) {
    if (name.starts_with(prefix)) names.push_back(name);
  }
  ASSERT_FALSE(names.empty());
  for (const std::string& name : names) file.rename(name, kTower + name.substr(prefix.size()));
  EXPECT_EQ(file.error(student()), "no error");
  const TensorSource source = file.open();
  const std::string canonical = prefix + "embeddings.patch_embedding.bias";
  EXPECT_EQ(name_in_source(source, canonical), kTower + "embeddings.patch_embedding.bias");
  EXPECT_EQ(values_from(source)(canonical).size(), 16U);
  EXPECT_TRUE(values_from(source)(prefix + "embeddings.nothing").empty());
}

TEST(CheckSource, AcceptsTensorsThatNoPassReads) {
  Checkpoint file(student());
  for (const std::string& tower : {kTower, kTower + "vision_model."}) {
    file.add(tower + "encoder.layers.1.self_attn.q_proj.weight");  // the block after the feature
    file.add(tower + "post_layernorm.bias");
    file.add(tower + "head.probe");
  }
  file.add("language_model.model.layers.1.self_attn.rotary_emb.inv_freq");
  file.add(kTower + "vision_model.embeddings.position_ids");
  EXPECT_EQ(file.error(student()), "no error");
}

TEST(CheckSource, ListsEverythingThatDoesNotFit) {
  Checkpoint file(student());
  file.tensors.erase("connector._connector.2.bias");
  file.tensors.erase("language_model.model.layers.0.mamba.D");
  file.tensors.at("language_model.model.layers.1.self_attn.k_proj.weight").shape = {32, 32};
  file.tensors.at("language_model.lm_head.bias").dtype = DType::i32;
  file.add("language_model.model.layers.0.self_attn.q_proj.weight");  // of a layer that is a Mamba layer
  file.add("language_model.model.layers.4.mlp.fc1.bias");
  file.add(kTower + "encoder.layers.2.mlp.fc1.bias");  // the tower has two blocks
  file.add("head.probe");                              // outside the tower
  EXPECT_EQ(file.error(student()),
            "; missing 'connector._connector.2.bias' [32]"
            "; missing 'language_model.model.layers.0.mamba.D' [4]"
            "; 'language_model.model.layers.1.self_attn.k_proj.weight': found [32, 32], expected [16, 32]"
            "; 'language_model.lm_head.bias': found I32, expected F32, F16, BF16 or F64"
            "; unexpected 'head.probe'"
            "; unexpected 'language_model.model.layers.0.self_attn.q_proj.weight'"
            "; unexpected 'language_model.model.layers.4.mlp.fc1.bias'"
            "; unexpected 'vision_tower._vision_tower.encoder.layers.2.mlp.fc1.bias'");
}

// Both spellings of one tensor: which one counts would be a guess.
TEST(CheckSource, RefusesATensorUnderBothNames) {
  Checkpoint file(student());
  file.add(kTower + "embeddings.patch_embedding.bias", {16});
  EXPECT_EQ(file.error(student()), "; unexpected 'vision_tower._vision_tower.embeddings.patch_embedding.bias'");
}

TEST(CheckSource, LoadingAStudentAsItsTeacherNamesBothSides) {
  Checkpoint file(student());
  const std::string message = file.error(tiny_config());
  for (const char* part : {"; missing 'language_model.model.layers.0.self_attn.q_proj.weight' [32, 32]",
                           "; missing 'language_model.model.layers.2.self_attn.dense.bias' [32]",
                           "; unexpected 'language_model.model.layers.0.mamba.in_proj.weight'",
                           "; unexpected 'language_model.model.layers.2.mamba.A_log'"}) {
    EXPECT_NE(message.find(part), std::string::npos) << part << " not in " << message;
  }
}

TEST(MatchesPattern, StarsMatchAnyRun) {
  EXPECT_TRUE(matches_pattern("a.b.c", "a.b.c"));
  EXPECT_FALSE(matches_pattern("a.b.c", "a.b"));
  EXPECT_FALSE(matches_pattern("a.b", "a.b.c"));
  EXPECT_TRUE(matches_pattern("a.b.c", "*"));
  EXPECT_TRUE(matches_pattern("", "*"));
  EXPECT_TRUE(matches_pattern("", ""));
  EXPECT_FALSE(matches_pattern("", "a"));
  EXPECT_FALSE(matches_pattern("a", ""));
  EXPECT_TRUE(matches_pattern("layers.10.mlp.fc1.weight", "layers.*.mlp.*"));
  EXPECT_FALSE(matches_pattern("layers.10.attn.fc1.weight", "layers.*.mlp.*"));
  EXPECT_TRUE(matches_pattern("layers.1.weight", "*.weight"));
  EXPECT_FALSE(matches_pattern("layers.1.weights", "*.weight"));
  // The first place where the middle fits is not the right one.
  EXPECT_TRUE(matches_pattern("abab_ab", "*ab"));
  EXPECT_TRUE(matches_pattern("xaab", "*ab"));
  EXPECT_TRUE(matches_pattern("a.b.b.c", "a*b.c"));
  EXPECT_TRUE(matches_pattern("ab", "a**b"));
  EXPECT_TRUE(matches_pattern("ab", "ab**"));
  EXPECT_FALSE(matches_pattern("a.b", "a?b"));  // only the star is special
  EXPECT_FALSE(matches_pattern("axb", "a.b"));
}

}  // namespace
}  // namespace matvlm::testing
