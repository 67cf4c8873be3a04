// Students as the published MaTVLM code has them: a folder that its classes wrote (tests/golden/published), and where
// $MATVLM_PUBLISHED names a clone of that code, models carried from those classes to this program and back.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/tensor_source.h"
#include "layers/config.h"
#include "tests/support/program.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_job.h"
#include "tests/support/vlm_logits.h"

namespace matvlm::testing {
namespace {

namespace fs = std::filesystem;

using Words = std::vector<std::string>;

const std::string kSource = MATVLM_SOURCE_DIR;
const std::string kFolder = kSource + "/tests/golden/published";

// Logits of the student in `folder` against `kind` (`train`, `eval`) of what published.py wrote; the largest
// difference.
double logits_difference(const std::string& folder, const TensorSource& expected, const std::string& kind) {
  const auto context = make_cpu_context(2);
  const auto text = vlm_logits(*context, folder, expected.read<int32_t>("text_ids"), {});
  const double difference = largest_difference(text, expected.read_floats("text." + kind));
  if (!expected.has("image")) return difference;
  const auto image = vlm_logits(*context, folder, expected.read<int32_t>("ids"), expected.read_floats("image"));
  return std::max(difference, largest_difference(image, expected.read_floats("image." + kind)));
}

TEST(Published, StudentGivesTheLogitsOfItsClasses) {
  const TensorSource expected = TensorSource::open(kFolder + "/logits.safetensors");
  EXPECT_LE(logits_difference(kFolder + "/student", expected, "train"), 1e-4);
  const std::vector<float> zeros(expected.read_floats("text.train").size(), 0.0F);
  EXPECT_GT(largest_difference(zeros, expected.read_floats("text.train")), 1.0);
}

// What their strict loading asks of an export: the very names, types and shapes of a folder that they wrote.
TEST(Published, ExportHasTheTensorsOfItsClasses) {
  const TempDir dir;
  fs::copy(kFolder + "/student", dir.file("student"));
  fs::copy(kSource + "/tests/golden/tokenizer/gpt2.json", dir.file("student/tokenizer.json"));
  const ProgramResult exported = run_program(dir.path(), {"export", "student", "--out", "anew"});
  ASSERT_EQ(exported.code, 0) << exported.err;
  const TensorSource theirs = TensorSource::open(dir.file("student"));
  const TensorSource ours = TensorSource::open(dir.file("anew"));
  ASSERT_EQ(ours.names(), theirs.names());
  for (const std::string& name : theirs.names()) {
    EXPECT_EQ(ours.info(name).shape, theirs.info(name).shape) << name;
    EXPECT_EQ(ours.info(name).type, theirs.info(name).type) << name;
    EXPECT_EQ(ours.read_bytes(name), theirs.read_bytes(name)) << name;
  }
  const Json mine = Json::read_file(dir.file("anew/mamba_config.json"));
  const Json written = Json::read_file(kFolder + "/student/mamba_config.json");
  EXPECT_EQ(mine.keys(), written.keys());
  for (const std::string& key : written.keys()) {
    if (key == "resid_pdrop") continue;  // a dropout of 0.1, which their trainer leaves on
    EXPECT_EQ(mine.at(key).dump(), written.at(key).dump()) << key;
  }
}

struct Model {
  const char* name;
  int hidden, kv_heads;
  bool is_bias;
  const char* ssm_layers;
  const char* select;
  int tokens_per_image;
  const char* ssm_cfg;  // what their trainer's own leaves out
};
constexpr Model kModels[] = {
    {"grouped", 64, 2, false, "[0, 2]", "patch", 8, "{}"},
    {"biases", 64, 4, true, "[1, 3]", "cls_patch", 9, "{}"},
    // An inner width that 64, their default for a head's width, does not divide.
    {"narrow", 80, 4, false, "[0, 1, 2, 3]", "patch", 8, R"({"headdim": 20})"},
};

// Runs the published code, and this program beside it.
class PublishedCode : public ::testing::Test {
 protected:
  static std::string environment(const char* name, const std::string& otherwise) {
    const char* value = std::getenv(name);
    return value != nullptr ? value : otherwise;
  }
  void SetUp() override {
    const std::string checkout = environment("MATVLM_PUBLISHED", "");
    if (checkout.empty()) GTEST_SKIP() << "MATVLM_PUBLISHED names no clone of the published code";
    python_ = environment("MATVLM_PUBLISHED_PYTHON", environment("MATVLM_PYTHON", "python3")) + " " + kSource +
              "/tests/e2e/published.py " + checkout + " ";
    const ProgramResult probe = run_shell(dir_.path(), python_ + "probe");
    if (probe.code != 0) GTEST_SKIP() << "the published code cannot be imported: " << probe.err;
  }
  void python(const std::string& words) {
    const ProgramResult result = run_shell(dir_.path(), python_ + words);
    ASSERT_EQ(result.code, 0) << result.err;
  }
  void run(const Words& words) {
    const ProgramResult result = run_program(dir_.path(), words);
    ASSERT_EQ(result.code, 0) << words[0] << ": " << result.err;
  }
  std::string file(const std::string& name) const { return dir_.file(name); }

  // With a teacher and a distill.yaml: an export, in several files, as their classes load it.
  void expect_same_there() {
    run({"distill", "distill.yaml"});
    run({"export", "run", "--out", "student", "--max-shard-size", "100KB"});
    python("read teacher student logits.safetensors");
    if (HasFatalFailure()) return;
    const TensorSource expected = TensorSource::open(file("logits.safetensors"));
    for (const char* kind : {"train", "eval"}) {
      if (!expected.has(cat("text.", kind))) continue;
      const double difference = logits_difference(file("student"), expected, kind);
      EXPECT_LE(difference, 1e-4) << kind;
      std::printf("largest difference from the published classes that %s: %.2g\n", kind, difference);
    }
  }
  // A student that their trainer starts, from the same teacher. `sizes`: for published.py, in quotes for the shell.
  void expect_a_start_here(const std::string& sizes) {
    python("student teacher published " + sizes + " logits.safetensors");
    if (HasFatalFailure()) return;
    run({"distill", "distill.yaml", "--set", "student.init_from=published"});
    run({"export", "run", "--checkpoint", "start", "--out", "start"});
    run({"export", "run", "--out", "after"});
    if (HasFatalFailure()) return;
    const TensorSource expected = TensorSource::open(file("logits.safetensors"));
    const double difference = logits_difference(file("start"), expected, "train");
    EXPECT_LE(difference, 1e-4);
    EXPECT_LE(logits_difference(file("published"), expected, "train"), 1e-4);
    EXPECT_GT(logits_difference(file("after"), expected, "train"), 1e-3);  // the updates moved it
    std::printf("largest difference from the published classes that started it: %.2g\n", difference);
  }

  TempDir dir_;
  std::string python_;
};

class PublishedClasses : public PublishedCode, public ::testing::WithParamInterface<Model> {
 protected:
  static std::string sizes() {
    const Model& m = GetParam();
    return cat(R"('{"text": {"vocab_size": 400, "hidden_size": )", m.hidden,
               R"(, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, )",
               R"("num_key_value_heads": )", m.kv_heads,
               R"(, "partial_rotary_factor": 0.5, "hidden_act": "gelu_new"}, )",
               R"("vision": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, )",
               R"("num_attention_heads": 4, "image_size": 48, "patch_size": 16}, "tokenizer": "tokenizer.json", )",
               R"("select": ")", m.select, R"(", "is_bias": )", m.is_bias ? "true" : "false", R"(, "ssm_layers": )",
               m.ssm_layers, R"(, "ssm_cfg": )", m.ssm_cfg, "}'");
  }
  // A teacher of the published classes and data for it.
  void make_job() {
    run({"data", "synthetic", "--out", "data", "--samples", "32", "--image-size", "48"});
    run({"data", "tokenizer", "--data", "data/train.json", "data/heldout.json", "--out", "tokenizer.json", "--vocab",
         "400"});
    python("teacher teacher " + sizes());
    for (const std::string name : {"train", "heldout"}) {
      Words words = tiny_pack_words(name);
      words.back() = std::to_string(GetParam().tokens_per_image);
      run(words);
    }
    write_file_atomic(
        file("distill.yaml"),
        cat("run: {dir: run, seed: 2}\ndevice: cpu\nteacher: {path: teacher}\nstudent: {ssm_fraction: 0, ",
            "ssm_layers: ", GetParam().ssm_layers, ", is_bias: ", GetParam().is_bias ? "true" : "false",
            "}\noptimizer: {lr: 1.0e-2, clip: 1.0}\n", "schedule: {kind: constant, warmup: 0, total: 16}\n",
            "data: {train: train.h5, heldout: heldout.h5, max_length: 128}\nbatch: {size: 8, micro: 4}\n"));
  }
};

TEST_P(PublishedClasses, LoadAnExportStrictlyAndComputeTheSame) {
  make_job();
  if (!HasFatalFailure()) expect_same_there();
}

TEST_P(PublishedClasses, StudentIsAStartHere) {
  make_job();
  if (!HasFatalFailure()) expect_a_start_here(sizes());
}

INSTANTIATE_TEST_SUITE_P(Models, PublishedClasses, ::testing::ValuesIn(kModels),
                         [](const auto& model) { return std::string(model.param.name); });

struct TextModel {
  const char* name;
  int hidden, kv_heads;
  bool tied;
  const char* ssm_cfg;
};
constexpr TextModel kTextModels[] = {{"grouped", 64, 2, false, "{}"}, {"tied", 48, 4, true, R"({"headdim": 12})"}};

// Language models without pictures: a Llama of transformers and their classes for it.
class PublishedTextClasses : public PublishedCode, public ::testing::WithParamInterface<TextModel> {
 protected:
  static std::string sizes() {
    const TextModel& m = GetParam();
    return cat(R"('{"text": {"vocab_size": 300, "hidden_size": )", m.hidden, R"(, "intermediate_size": 96, )",
               R"("num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": )", m.kv_heads,
               R"(, "rms_norm_eps": 1e-5, "tie_word_embeddings": )", m.tied ? "true" : "false",
               R"(}, "is_bias": false, "ssm_layers": [0, 3], "ssm_cfg": )", m.ssm_cfg, "}'");
  }
  void make_job() {
    std::string lines;
    for (int i = 0; i < 200; ++i)
      lines += cat(R"({"text": "line )", i * i, " of a text about ", i % 7, " things.\"}\n");
    write_file_atomic(file("text.jsonl"), lines);
    run({"data", "tokenizer", "--text", "text.jsonl", "--out", "tokenizer.json", "--vocab", "300"});
    python("teacher teacher " + sizes());
    if (HasFatalFailure()) return;
    fs::copy(file("tokenizer.json"), file("teacher/tokenizer.json"));
    run({"data", "pack", "--text", "text.jsonl", "--tokenizer", "tokenizer.json", "--out", "train.h5", "--max-length",
         "48"});
    write_file_atomic(file("distill.yaml"), R"(run: {dir: run, seed: 2}
device: cpu
teacher: {path: teacher}
student: {ssm_fraction: 0, ssm_layers: [0, 3]}
optimizer: {lr: 1.0e-2, clip: 1.0}
schedule: {kind: constant, warmup: 0, total: 16}
data: {train: train.h5, max_length: 48}
batch: {size: 8, micro: 4}
)");
  }
};

TEST_P(PublishedTextClasses, LoadAnExportStrictlyAndComputeTheSame) {
  make_job();
  if (!HasFatalFailure()) expect_same_there();
}

TEST_P(PublishedTextClasses, StudentIsAStartHere) {
  make_job();
  if (!HasFatalFailure()) expect_a_start_here(sizes());
}

INSTANTIATE_TEST_SUITE_P(Models, PublishedTextClasses, ::testing::ValuesIn(kTextModels),
                         [](const auto& model) { return std::string(model.param.name); });

}  // namespace
}  // namespace matvlm::testing
