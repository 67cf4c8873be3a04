// Weights held once: what teacher and student share is the same memory, what is trained is the student's own, and what
// is missing or misshapen is named.
#include <gtest/gtest.h>

#include "core/allocator.h"
#include "core/error.h"
#include "distill/student.h"
#include "layers/vlm.h"
#include "tests/support/errors.h"
#include "tests/support/tiny_model.h"

namespace matvlm::testing {
namespace {

Context& ctx() {
  static const std::unique_ptr<Context> context = make_cpu_context(2);
  return *context;
}

const Tensor& embed(const Vlm& model) { return model.text.embed.value; }

// Every tensor of the student that the teacher has too is either trained (own memory, same values) or the teacher's.
void expect_shared(const TinyModels& models, const StudentConfig& student) {
  int64_t own = 0, shared = 0;
  for (const ModelTensor& t : model_tensors(models.student_config)) {
    const Weight weight = models.student_weights.get(t.name, t.shape);
    EXPECT_EQ(weight.trainable(), is_trained(student, t.name)) << t.name;
    EXPECT_EQ(models.student_weights.frozen().contains(t.name), !weight.trainable()) << t.name;
    if (!models.teacher_weights.frozen().contains(t.name)) continue;
    const Tensor& theirs = models.teacher_weights.frozen().at(t.name);
    if (weight.trainable()) {
      ++own;
      EXPECT_NE(weight.value.raw(), theirs.raw()) << t.name;
      EXPECT_EQ(weight.value.to_floats(ctx()), theirs.to_floats(ctx())) << t.name;
    } else {
      ++shared;
      EXPECT_EQ(weight.value.raw(), theirs.raw()) << t.name;
    }
  }
  EXPECT_EQ(own, 4 + static_cast<int64_t>(student.trainable.size()));
  EXPECT_GT(shared, 40);
}

TEST(SharedWeights, FrozenTensorsAreTheTeachersMemory) {
  const auto models = make_tiny_models(ctx(), tiny_student());
  expect_shared(*models, tiny_student());
  EXPECT_EQ(embed(models->student).raw(), embed(models->teacher).raw());
  EXPECT_EQ(models->student.vision->position.value.raw(), models->teacher.vision->position.value.raw());
  EXPECT_NE(models->student.connector.fc1.weight.value.raw(), models->teacher.connector.fc1.weight.value.raw());
}

TEST(SharedWeights, APatternGivesTheStudentItsOwnCopy) {
  StudentConfig student = tiny_student();
  student.trainable = {"language_model.*embed_tokens.weight", "*layers.1.mlp.fc1.bias"};
  const auto models = make_tiny_models(ctx(), student);
  expect_shared(*models, student);
  EXPECT_NE(embed(models->student).raw(), embed(models->teacher).raw());
  EXPECT_TRUE(models->student.text.embed.trainable());
  EXPECT_FALSE(models->teacher.text.embed.trainable());
  student.trainable = {"*.norm.weight", "*layers.9.*"};
  EXPECT_EQ(error_of([&] { make_tiny_models(ctx(), student); }),
            "student.trainable: found '*layers.9.*', which matches no tensor of the model");
}

TEST(SharedWeights, WithoutTunedConnectorOnlyMixersAreTrained) {
  StudentConfig student = tiny_student();
  student.tune_connector = false;
  const auto models = make_tiny_models(ctx(), student);
  for (const auto& p : models->store().parameters()) {
    EXPECT_NE(p->name.find(".mamba."), std::string::npos) << p->name;
  }
  EXPECT_EQ(models->store().parameters().size(), 16U);  // 8 tensors of 2 mixers
  EXPECT_EQ(models->student.connector.fc1.weight.value.raw(), models->teacher.connector.fc1.weight.value.raw());
}

void expect_joined(const JoinedLinear& layer, bool joined) {
  ASSERT_EQ(layer.w.defined(), joined);
  if (!joined) return;
  EXPECT_EQ(layer.w.dim(0), layer.width());
  int64_t begin = 0;
  for (const JoinedLinear::Part& part : layer.parts) {
    const int64_t end = begin + part.w.value.dim(0);
    EXPECT_EQ(layer.w.slice_rows(begin, end).raw(), part.w.value.raw());
    EXPECT_EQ(layer.bias.defined(), part.bias.defined());
    if (part.bias.defined()) {
      EXPECT_EQ(layer.bias.slice_rows(begin, end).raw(), part.bias.value.raw());
    }
    begin = end;
  }
}

const JoinedLinear& qkv(const Vlm& model, size_t layer) {
  return std::get<AttentionMixer>(model.text.blocks[layer].mixer).qkv;
}

// Frozen q, k, v and gate, up are rows of one tensor, which teacher and student share; one trained part of them is the
// student's own, and the others stay the teacher's.
TEST(JoinedWeights, FrozenPartsAreRowsOfOneTensor) {
  const auto models = make_tiny_models(ctx(), tiny_student());
  for (const size_t layer : {0U, 1U, 2U, 3U}) expect_joined(qkv(models->teacher, layer), true);
  for (const size_t layer : {1U, 3U}) {
    expect_joined(qkv(models->student, layer), true);
    EXPECT_EQ(qkv(models->student, layer).w.raw(), qkv(models->teacher, layer).w.raw());
  }
  for (const Block& block : models->student.vision->blocks)
    expect_joined(std::get<AttentionMixer>(block.mixer).qkv, true);
  const auto llama = make_tiny_llama(ctx(), tiny_student());
  for (const Block& block : llama->student.text.blocks) expect_joined(block.mlp.gate_up, true);

  StudentConfig own = tiny_student();
  own.trainable = {"*layers.1.self_attn.k_proj.weight", "*layers.3.self_attn.q_proj.bias"};
  const auto mixed = make_tiny_models(ctx(), own);
  for (const size_t layer : {1U, 3U}) expect_joined(qkv(mixed->teacher, layer), true);
  expect_joined(qkv(mixed->student, 1), false);
  EXPECT_TRUE(qkv(mixed->student, 1).bias.defined());
  EXPECT_EQ(qkv(mixed->student, 3).w.raw(), qkv(mixed->teacher, 3).w.raw());
  EXPECT_FALSE(qkv(mixed->student, 3).bias.defined());
}

// Trained parts join where the arena's alignment leaves nothing between them.
TEST(JoinedWeights, TrainedPartsAreNeighboursInTheArena) {
  ModelConfig config = tiny_llama_config();  // q 32 x 32, k and v 16 x 32, gate and up 48 x 32
  const ModelWeights weights = make_weights(
      ctx(), config, DType::bf16, [](const std::string&) { return true; }, tiny_values(config));
  const Vlm model = make_vlm(weights, config);
  for (size_t layer = 0; layer < model.text.blocks.size(); ++layer) {
    expect_joined(qkv(model, layer), true);
    expect_joined(model.text.blocks[layer].mlp.gate_up, true);
    EXPECT_EQ(qkv(model, layer).w.dtype(), DType::bf16);
  }
}

// No part is held a second time: the tensors' bytes are all that is allocated, up to the allocator's rounding.
TEST(JoinedWeights, AreHeldOnce) {
  const auto context = make_cpu_context(1);
  ModelConfig config = tiny_llama_config();
  config.text.hidden = 256;
  config.text.mlp = 512;
  const ValueSource values = tiny_values(config);
  int64_t bytes = 0;
  for (const ModelTensor& t : model_tensors(config)) bytes += shape_numel(t.shape) * dtype_size(DType::f32);
  const int64_t before = context->allocator()->stats().current;
  const ModelWeights weights = make_weights(
      *context, config, DType::f32, [](const std::string&) { return false; }, values);
  const int64_t arenas = 4 * ParameterStore::kArenaPadding * dtype_size(DType::f32);  // of no parameters
  const int64_t held = context->allocator()->stats().current - before - arenas;
  EXPECT_GE(held, bytes);
  EXPECT_LE(held, bytes + bytes / 8 + arenas / 8);
  for (const ModelTensor& t : model_tensors(config)) EXPECT_EQ(weights.values(*context, t.name), values(t.name));
}

TEST(SharedWeights, AStudentIsSmallerThanTwoModels) {
  const auto models = make_tiny_models(ctx(), tiny_student());
  int64_t expected = 0;
  for (const ModelTensor& t : model_tensors(models->student_config)) expected += shape_numel(t.shape);
  EXPECT_EQ(models->student_weights.numel(), expected);
}

TEST(MakeWeights, Bf16KeepsTheMastersAndTheFloat32Tensors) {
  const ModelConfig config = student_config(tiny_config(), tiny_student());
  // The mixers' values are not a teacher's, so take them at random.
  const ValueSource values = tiny_values(config);
  const ModelWeights weights = make_weights(
      ctx(), config, DType::bf16, [](const std::string& name) { return name.find("layers.0.") != std::string::npos; },
      values);
  const std::string trained = "language_model.model.layers.0.mamba.";
  const std::string frozen = "language_model.model.layers.2.mamba.";
  const Parameter& in_proj = *weights.store().find(trained + "in_proj.weight");
  EXPECT_EQ(in_proj.value.dtype(), DType::bf16);
  EXPECT_EQ(in_proj.master.to_floats(ctx()), values(trained + "in_proj.weight"));
  EXPECT_EQ(
      in_proj.value.to_floats(ctx()),
      Tensor::from_floats(ctx(), values(trained + "in_proj.weight"), in_proj.shape, DType::bf16).to_floats(ctx()));
  EXPECT_EQ(weights.values(ctx(), trained + "in_proj.weight"), values(trained + "in_proj.weight"));  // not rounded
  EXPECT_EQ(weights.frozen().at(frozen + "in_proj.weight").dtype(), DType::bf16);
  for (const char* name : {"A_log", "D", "dt_bias"}) {
    EXPECT_EQ(weights.store().find(trained + name)->value.dtype(), DType::f32) << name;
    EXPECT_EQ(weights.frozen().at(frozen + name).dtype(), DType::f32) << name;
    EXPECT_EQ(weights.frozen().at(frozen + name).to_floats(ctx()), values(frozen + name)) << name;
  }
}

// From files of every layout and type, joined or not, rounded or not: what a vector of floats would have brought.
TEST(LoadFrozenWeights, ValuesAreThoseOfTheFile) {
  for (const char* name : {"single", "sharded", "parts", "bf16", "f16", "bin", "bin-deflated", "bin-strided", "bin-f16",
                           "llama", "llama-sharded", "llama-bin"}) {
    const std::string folder = std::string(MATVLM_SOURCE_DIR) + "/tests/golden/checkpoints/" + name;
    const ModelConfig config = read_model_config(folder);
    const TensorSource source = TensorSource::open(folder);
    const ValueSource values = values_from(source);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const ModelWeights weights = load_frozen_weights(ctx(), config, source, dtype);
      for (const ModelTensor& t : model_tensors(config)) {
        const DType held = t.keep_float32 ? DType::f32 : dtype;
        EXPECT_EQ(weights.values(ctx(), t.name),
                  Tensor::from_floats(ctx(), values(t.name), t.shape, held).to_floats(ctx()))
            << name << " " << t.name;
      }
    }
  }
}

TEST(MakeWeights, ErrorsNameTheTensor) {
  const ModelConfig config = tiny_config();
  const ValueSource values = tiny_values(config);
  const auto none = [](const std::string&) { return false; };
  const std::string name = "connector._connector.2.bias";
  const auto with = [&](const std::vector<float>& special) {
    return [&, special](const std::string& n) { return n == name ? special : values(n); };
  };
  EXPECT_EQ(error_of([&] { make_weights(ctx(), config, DType::f32, none, with({})); }),
            "[weights] 'connector._connector.2.bias': found 0 values, expected 32");
  EXPECT_EQ(error_of([&] { make_weights(ctx(), config, DType::f32, none, with(std::vector<float>(33))); }),
            "[weights] 'connector._connector.2.bias': found 33 values, expected 32");
  const ModelWeights weights = make_weights(ctx(), config, DType::f32, none, values);
  EXPECT_EQ(error_of([&] { weights.get("no.such.tensor", {1}); }), "[weights] no tensor 'no.such.tensor'");
  EXPECT_EQ(error_of([&] { weights.values(ctx(), "no.such.tensor"); }), "[weights] no tensor 'no.such.tensor'");
  EXPECT_EQ(error_of([&] { weights.get(name, {31}); }),
            "[weights] 'connector._connector.2.bias': found [32], expected [31]");
}

TEST(MakeWeights, SetParameterChecksTheCount) {
  const auto models = make_tiny_models(ctx(), tiny_student());
  const Parameter& p = *models->store().find("connector._connector.0.bias");
  EXPECT_EQ(error_of([&] { set_parameter(ctx(), p, std::vector<float>(3)); }),
            "[weights] 'connector._connector.0.bias': found 3 values, expected 32");
  std::vector<float> values(32, 0.25F);
  set_parameter(ctx(), p, values);
  EXPECT_EQ(p.master.to_floats(ctx()), values);
  EXPECT_EQ(models->student.connector.fc1.bias.value.to_floats(ctx()), values);
}

}  // namespace
}  // namespace matvlm::testing
