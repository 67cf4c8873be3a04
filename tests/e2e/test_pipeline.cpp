// The whole way on generated data through the built program: data, tokenizer, pack, teach, export, distill on two
// ranks, export, eval, generate, inspect, check; and what is written is read back by the next stage.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "core/file.h"
#include "core/json.h"
#include "core/tensor_source.h"
#include "tests/support/errors.h"
#include "tests/support/program.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_job.h"

namespace matvlm::testing {
namespace {

namespace fs = std::filesystem;

using Words = std::vector<std::string>;

// One job for all tests: data, teacher, and a run of two ranks with its export.
class Pipeline : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    make_tiny_job(dir_->path());
    distilled_ = new ProgramResult(run_program(dir_->path(), {"distill", "distill.yaml"}, 2));
    exported_ = new ProgramResult(run({"export", "run", "--out", "student"}));
  }
  static void TearDownTestSuite() {
    delete exported_;
    delete distilled_;
    delete dir_;
  }
  void SetUp() override {
    ASSERT_EQ(distilled_->code, 0) << distilled_->err;
    ASSERT_EQ(exported_->code, 0) << exported_->err;
  }

  static ProgramResult run(const std::vector<std::string>& words) { return run_program(dir_->path(), words); }
  static std::string file(const std::string& name) { return dir_->file(name); }
  static std::set<std::string> names_in(const std::string& folder) {
    std::set<std::string> names;
    for (const fs::directory_entry& entry : fs::directory_iterator(file(folder))) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }

  static inline TempDir* dir_ = nullptr;
  static inline ProgramResult* distilled_ = nullptr;
  static inline ProgramResult* exported_ = nullptr;
};

TEST_F(Pipeline, DistillingLogsWhatItDoesAndLowersTheLosses) {
  const auto info = distilled_->logged("info");
  ASSERT_FALSE(info.empty());
  EXPECT_TRUE(contains(distilled_->err, "student.ssm_fraction    0.5")) << "the effective config is not shown";
  EXPECT_TRUE(contains(distilled_->err, "2 of 4 layers are Mamba-2"));
  EXPECT_EQ(info.back(), "done: 8 updates, 64 samples");
  const RunTrace trace = trace_of(file("run"));
  ASSERT_EQ(trace.metrics.size(), 8U + 3U);  // evaluations after updates 3, 6 and 8
  const Json first = Json::parse(trace.metrics.front(), "first");
  const Json last = Json::parse(trace.metrics.at(9), "last");
  EXPECT_EQ(last.at("step").as_int(), 8);
  for (const char* term : {"total", "logit", "layer"}) {
    EXPECT_LT(last.at("loss").at(term).as_double(), first.at("loss").at(term).as_double()) << term;
  }
  EXPECT_EQ(names_in("run"), (std::set<std::string>{"checkpoints", "config.yaml", "lock", "log.txt", "metrics.jsonl"}));
}

TEST_F(Pipeline, ExportHasTheNamesOfTheMethodAndHuggingFaceFiles) {
  EXPECT_EQ(names_in("student"), (std::set<std::string>{"config.json", "mamba_config.json", "model.safetensors",
                                                        "preprocessor_config.json", "tokenizer.json"}));
  EXPECT_EQ(names_in("teacher"),
            (std::set<std::string>{"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"}));
  EXPECT_EQ(read_file(file("student/tokenizer.json")), read_file(file("tokenizer.json")));

  const std::string vision = "vision_tower._vision_tower.vision_model.";
  const std::string text = "language_model.model.";
  std::set<std::string> expected = {vision + "embeddings.patch_embedding.weight",
                                    vision + "embeddings.patch_embedding.bias",
                                    vision + "embeddings.position_embedding.weight",
                                    "connector._connector.0.weight",
                                    "connector._connector.0.bias",
                                    "connector._connector.2.weight",
                                    "connector._connector.2.bias",
                                    text + "embed_tokens.weight",
                                    text + "final_layernorm.weight",
                                    text + "final_layernorm.bias",
                                    "language_model.lm_head.weight",
                                    "language_model.lm_head.bias"};
  const auto both = [&](const std::string& name) {
    expected.insert(name + ".weight");
    expected.insert(name + ".bias");
  };
  for (const char* layer : {"0", "1"}) {
    for (const char* part : {"layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2", "self_attn.q_proj", "self_attn.k_proj",
                             "self_attn.v_proj", "self_attn.out_proj"}) {
      both(vision + "encoder.layers." + layer + "." + part);
    }
  }
  std::set<std::string> teacher = expected;
  for (int i = 0; i < 4; ++i) {
    const std::string layer = text + "layers." + std::to_string(i) + ".";
    for (const char* part : {"input_layernorm", "mlp.fc1", "mlp.fc2"}) both(layer + part);
    for (const char* part : {"q_proj", "k_proj", "v_proj", "dense"}) {
      for (const char* end : {".weight", ".bias"}) {
        teacher.insert(layer + "self_attn." + part + end);
        if (i % 2 == 1) expected.insert(layer + "self_attn." + part + end);
      }
    }
    if (i % 2 == 1) continue;
    for (const char* part : {"in_proj.weight", "conv1d.weight", "conv1d.bias", "A_log", "D", "dt_bias", "norm.weight",
                             "out_proj.weight"}) {
      expected.insert(layer + "mamba." + part);
    }
  }
  for (const std::string& name : expected) {
    if (!contains(name, ".mamba.")) teacher.insert(name);
  }
  const TensorSource student = TensorSource::open(file("student"));
  const std::vector<std::string> found = student.names();
  EXPECT_EQ(std::set<std::string>(found.begin(), found.end()), expected);
  const std::vector<std::string> taught = TensorSource::open(file("teacher")).names();
  EXPECT_EQ(std::set<std::string>(taught.begin(), taught.end()), teacher);
  const std::string in_proj = text + "layers.0.mamba.in_proj.weight";
  EXPECT_EQ(student.info(in_proj).shape, (std::vector<int64_t>{32 + 16 + 16 + 32 + 4, 32}));
  EXPECT_EQ(student.info(text + "layers.0.mamba.conv1d.weight").shape, (std::vector<int64_t>{64, 1, 4}));
}

TEST_F(Pipeline, ExportHoldsTheCheckpointsTrainedAndTheTeachersFrozenTensors) {
  const TensorSource student = TensorSource::open(file("student"));
  const TensorSource teacher = TensorSource::open(file("teacher"));
  const TensorSource trained = TensorSource::open(file("run/checkpoints/step-00000008/model.safetensors"));
  int frozen = 0;
  for (const std::string& name : student.names()) {
    const bool is_trained = trained.has(name);
    EXPECT_EQ(is_trained, contains(name, ".mamba.") || name.starts_with("connector.")) << name;
    EXPECT_EQ(student.read_floats(name), (is_trained ? trained : teacher).read_floats(name)) << name;
    frozen += is_trained ? 0 : 1;
  }
  EXPECT_GT(frozen, 0);
  EXPECT_NE(student.read_floats("connector._connector.0.weight"), teacher.read_floats("connector._connector.0.weight"));

  const Json config = Json::read_file(file("student/config.json"));
  EXPECT_EQ(config.at("text_config").at("model_type").as_string(), "phi");
  EXPECT_EQ(config.at("text_config").at("num_key_value_heads").as_int(), 2);
  EXPECT_EQ(config.at("vision_config").at("image_size").as_int(), 32);
  const Json mamba = Json::read_file(file("student/mamba_config.json"));
  EXPECT_EQ(mamba.at("attn_layers").dump(), "[1,3]");
  EXPECT_FALSE(mamba.at("is_bias").as_bool());
}

TEST_F(Pipeline, ExportsOfStartOfAnUpdateAndInBf16) {
  ASSERT_EQ(run({"export", "run", "--out", "start", "--checkpoint", "start"}).code, 0);
  const TensorSource start = TensorSource::open(file("start"));
  const TensorSource teacher = TensorSource::open(file("teacher"));
  // The start is attention: x <- W_v, behind the 32 rows of z (method: section 2).
  const std::vector<float> in_proj = start.read_floats("language_model.model.layers.0.mamba.in_proj.weight");
  const std::vector<float> value = teacher.read_floats("language_model.model.layers.0.self_attn.v_proj.weight");
  EXPECT_TRUE(std::equal(value.begin(), value.end(), in_proj.begin() + 32 * 32));
  EXPECT_EQ(start.read_floats("connector._connector.0.weight"), teacher.read_floats("connector._connector.0.weight"));

  ASSERT_EQ(run({"export", "run", "--out", "sixth", "--checkpoint", "6", "--precision", "bf16"}).code, 0);
  const TensorSource sixth = TensorSource::open(file("sixth"));
  EXPECT_EQ(sixth.info("language_model.lm_head.weight").type, "BF16");
  EXPECT_EQ(sixth.info("language_model.model.layers.0.mamba.A_log").type, "F32");
  EXPECT_EQ(run({"eval", "--model", "sixth", "--data", "heldout.h5", "--samples", "2"}).code, 0);
}

TEST_F(Pipeline, EvaluatesAgainstATeacherOnAnyNumberOfRanks) {
  const std::vector<std::string> words = {"eval",      "--model", "student", "--data",           "heldout.h5",
                                          "--teacher", "teacher", "--json",  "e.json",           "--show",
                                          "2",         "--micro", "5",       "--max-new-tokens", "6"};
  const ProgramResult alone = run(words);
  ASSERT_EQ(alone.code, 0) << alone.err;
  const Json first = Json::read_file(file("e.json"));
  EXPECT_EQ(first.at("questions").as_double(), 24);
  EXPECT_GT(first.at("parameters").as_int(), 60000);
  EXPECT_TRUE(contains(alone.out, "all                 24")) << alone.out;
  const ProgramResult two = run_program(dir_->path(), words, 2);
  ASSERT_EQ(two.code, 0) << two.err;
  const Json second = Json::read_file(file("e.json"));
  for (const char* key : {"exact_match", "agreement"}) {
    EXPECT_EQ(first.at(key).as_double(), second.at(key).as_double()) << key;
  }
  // A model agrees with itself, and a run stands for the export of its best checkpoint.
  ASSERT_EQ(run({"eval", "--model", "run", "--data", "heldout.h5", "--teacher", "student", "--json", "f.json",
                 "--max-new-tokens", "6"})
                .code,
            0);
  EXPECT_EQ(Json::read_file(file("f.json")).at("agreement").as_double(), 1.0);
}

TEST_F(Pipeline, Generates) {
  const std::string image = "data/images/" + *names_in("data/images").begin();
  const std::vector<std::string> words = {"generate", "--model",      "student",          "--image", image,
                                          "--prompt", "Which color?", "--max-new-tokens", "8"};
  const ProgramResult first = run(words);
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_TRUE(first.out.ends_with("\n"));
  EXPECT_EQ(run(words).out, first.out);
  std::vector<std::string> sampled = words;
  sampled.insert(sampled.end(), {"--temperature", "2", "--seed", "5"});
  const ProgramResult random = run(sampled);
  ASSERT_EQ(random.code, 0) << random.err;
  EXPECT_EQ(run(sampled).out, random.out);
  const ProgramResult text = run({"generate", "--model", "run", "--prompt", "What is 1 + 1?", "--max-new-tokens", "3"});
  EXPECT_EQ(text.code, 0) << text.err;
}

TEST_F(Pipeline, InspectsEverythingItWrote) {
  for (const auto& [path, part] : std::vector<std::pair<std::string, std::string>>{
           {"run", "update 8, 64 samples, written by 2 ranks, distill, seed 2"},
           {"run/checkpoints/step-00000008", "language_model.model.layers.2.mamba.dt_bias"},
           {"student", "language_model.model.layers.1.self_attn.dense.bias"},
           {"train.h5", "64 samples"}}) {
    const ProgramResult result = run({"inspect", path, "--stats"});
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_TRUE(contains(result.out, part)) << result.out;
  }
}

TEST_F(Pipeline, CheckSaysWhatWouldBeTrained) {
  const ProgramResult distill = run({"check", "distill.yaml", "--ranks", "2"});
  EXPECT_EQ(distill.code, 0) << distill.err;
  EXPECT_TRUE(contains(distill.out, "(mixers 9176, connector 1600, other 0)")) << distill.out;
  EXPECT_TRUE(contains(distill.out, "8 of 8 samples"));
  EXPECT_TRUE(contains(distill.out, "memory: one rank")) << distill.out;
  EXPECT_TRUE(contains(distill.out, "recompute                   none\n")) << distill.out;
  EXPECT_TRUE(contains(distill.out, "train.recompute=blocks")) << distill.out;
  const ProgramResult teach = run({"check", "teach.yaml"});
  EXPECT_EQ(teach.code, 0) << teach.err;
  EXPECT_TRUE(contains(teach.out, "frozen parameters           0")) << teach.out;
}

TEST_F(Pipeline, AStudentIsTheStartOfAnotherRun) {
  const ProgramResult next = run({"distill", "distill.yaml", "--set", "run.dir=next", "--set",
                                  "student.init_from=student", "--set", "run.seed=77"});
  ASSERT_EQ(next.code, 0) << next.err;
  // It goes on where the first run ended, not at the attention's values.
  const Json fresh = Json::parse(trace_of(file("run")).metrics.front(), "fresh");
  const Json went_on = Json::parse(trace_of(file("next")).metrics.front(), "next");
  EXPECT_LT(went_on.at("loss").at("total").as_double(), fresh.at("loss").at("total").as_double());
  ASSERT_EQ(run({"export", "next", "--out", "again", "--checkpoint", "start"}).code, 0);
  const TensorSource student = TensorSource::open(file("student"));
  const TensorSource again = TensorSource::open(file("again"));
  EXPECT_EQ(again.names(), student.names());
  for (const std::string& name : student.names()) EXPECT_EQ(again.read_floats(name), student.read_floats(name)) << name;
}

// The student's connector was trained; a run that takes the teacher's in its place says so.
TEST_F(Pipeline, NothingOfAStartIsLost) {
  Words words = {"distill", "distill.yaml"};
  for (const char* set : {"run.dir=lost", "student.init_from=student", "student.tune_connector=false"}) {
    words.insert(words.end(), {"--set", set});
  }
  const ProgramResult result = run(words);
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.logged("error"),
            Words{"student: found other values than the teacher's in tensors that student.tune_connector and "
                  "student.trainable do not train, expected the same; 'connector._connector.0.weight'; "
                  "'connector._connector.0.bias'; 'connector._connector.2.weight'; 'connector._connector.2.bias'"});
  // An export in bf16 differs from the teacher by rounding only, which is no loss.
  ASSERT_EQ(run({"export", "run", "--out", "rounded", "--precision", "bf16"}).code, 0);
  const ProgramResult rounded = run({"distill", "distill.yaml", "--set", "run.dir=from_rounded", "--set",
                                     "student.init_from=rounded", "--set", "schedule.total=32"});
  EXPECT_EQ(rounded.code, 0) << rounded.err;
}

TEST_F(Pipeline, AStudentIsNoTeacher) {
  const ProgramResult result =
      run({"distill", "distill.yaml", "--set", "run.dir=wrong", "--set", "teacher.path=student"});
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.logged("error"),
            std::vector<std::string>{"student: the teacher has Mamba layers, expected attention in every layer"});
}

}  // namespace
}  // namespace matvlm::testing
