// Exports in every format, dtype and size of files, read back by this program and by Python's packages; `inspect` of
// them; and students that start from an earlier one.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/safetensors.h"
#include "core/tensor_source.h"
#include "layers/config.h"
#include "tests/support/errors.h"
#include "tests/support/program.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_job.h"
#include "tests/support/vlm_logits.h"

namespace matvlm::testing {
namespace {

namespace fs = std::filesystem;

using Words = std::vector<std::string>;

// One job for all tests: a teacher, and a student of it with the Mamba layers 0 and 2.
class Export : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    make_tiny_job(dir_->path());
    distilled_ = new ProgramResult(run({"distill", "distill.yaml"}));
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
  static ProgramResult run(const Words& words) { return run_program(dir_->path(), words); }
  static std::string file(const std::string& name) { return dir_->file(name); }
  static ProgramResult export_as(const std::string& out, const Words& more) {
    Words words = {"export", "run", "--out", out};
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  }
  static ProgramResult distill(const std::string& dir, const Words& sets) {
    Words words = {"distill", "distill.yaml", "--set", "run.dir=" + dir, "--set", "schedule.total=32"};
    for (const std::string& set : sets) words.insert(words.end(), {"--set", set});
    return run(words);
  }
  static void expect_error(const ProgramResult& result, const std::string& message) {
    EXPECT_EQ(result.code, 1);
    EXPECT_EQ(result.logged("error"), Words{message});
  }
  static void copy(const std::string& from, const std::string& to) {
    fs::copy(file(from), file(to), fs::copy_options::recursive);
  }

  static inline TempDir* dir_ = nullptr;
  static inline ProgramResult* distilled_ = nullptr;
  static inline ProgramResult* exported_ = nullptr;
};

TEST_F(Export, ShardsHoldTheSameTensorsAsOneFile) {
  ASSERT_EQ(export_as("sharded", {"--max-shard-size", "40KB"}).code, 0);
  EXPECT_FALSE(fs::exists(file("sharded/model.safetensors")));
  const Json index = Json::read_file(file("sharded/model.safetensors.index.json"));
  const TensorSource whole = TensorSource::open(file("student"));
  const TensorSource parts = TensorSource::open(file("sharded"));
  ASSERT_EQ(parts.names(), whole.names());
  EXPECT_GT(parts.files().size(), 3U);
  int64_t bytes = 0;
  for (const std::string& name : whole.names()) {
    EXPECT_EQ(parts.read_bytes(name), whole.read_bytes(name)) << name;
    bytes += static_cast<int64_t>(whole.read_bytes(name).size());
  }
  EXPECT_EQ(index.at("metadata").at("total_size").as_int(), bytes);
  for (const std::string& shard : parts.files()) {
    const SafetensorsFile one(shard);
    int64_t size = 0;
    for (const TensorInfo& info : one.infos()) size += info.end - info.begin;
    EXPECT_TRUE(size <= 40000 || one.infos().size() == 1) << shard;
  }
  // An export replaces one with other files.
  ASSERT_EQ(export_as("sharded", {}).code, 0);
  EXPECT_FALSE(fs::exists(file("sharded/model.safetensors.index.json")));
  EXPECT_EQ(run({"export", "run", "--out", "x", "--max-shard-size", "5 GB"}).logged("error"),
            Words{"--max-shard-size: found '5 GB', expected a size as 500MB, 5GB or 2GiB"});
}

TEST_F(Export, NarrowDtypesAreRoundedOnce) {
  const TensorSource wide = TensorSource::open(file("student"));
  for (const char* dtype : {"bf16", "f16"}) {
    const bool half = std::string(dtype) == "f16";
    ASSERT_EQ(export_as(dtype, {"--dtype", dtype}).code, 0);
    const TensorSource narrow = TensorSource::open(file(dtype));
    for (const std::string& name : wide.names()) {
      const bool kept = name.ends_with("A_log") || name.ends_with(".D") || name.ends_with("dt_bias");
      EXPECT_EQ(narrow.info(name).type, kept ? "F32" : half ? "F16" : "BF16") << name;
      std::vector<float> wanted = wide.read_floats(name);
      for (float& x : wanted) {
        x = kept ? x : half ? half_to_float(float_to_half(x)) : static_cast<float>(bf16(x));
      }
      EXPECT_EQ(narrow.read_floats(name), wanted) << name;
    }
  }
}

TEST_F(Export, MambaConfigHasThePublishedFields) {
  const Json mamba = Json::read_file(file("student/mamba_config.json"));
  EXPECT_EQ(mamba.keys(),
            (Words{"d_model", "ssm_cfg", "layer_norm_eps", "vocab_size", "d_inner", "d_xb", "intermediate_size",
                   "hidden_act", "n_layer", "attn_layers", "resid_pdrop", "bidirectional", "is_bias"}));
  EXPECT_EQ(mamba.at("attn_layers").dump(), "[1,3]");
  EXPECT_EQ(mamba.at("ssm_cfg").dump(), R"({"expand":1,"ngroups":4,"d_state":8,"headdim":8})");
  EXPECT_EQ(read_model_config(file("student")).mamba.ssm_layers, (std::vector<int64_t>{0, 2}));
}

// What a teacher says of itself beyond its sizes is what the published classes load by.
TEST_F(Export, ConfigKeepsTheTeachersOtherKeys) {
  copy("teacher", "named");
  Json config = Json::read_file(file("named/config.json"));
  config.set("llm_model_name_or_path", "microsoft/phi-2").set("tokenizer_padding_side", "right");
  write_file_atomic(file("named/config.json"), config.dump(2));
  write_file_atomic(file("named/tokenizer_config.json"), R"({"tokenizer_class": "CodeGenTokenizerFast"})");
  ASSERT_EQ(distill("named_run", {"teacher.path=named"}).code, 0);
  ASSERT_EQ(run({"export", "named_run", "--out", "named_student"}).code, 0);
  const Json written = Json::read_file(file("named_student/config.json"));
  EXPECT_EQ(written.at("llm_model_name_or_path").as_string(), "microsoft/phi-2");
  EXPECT_EQ(written.at("tokenizer_model_max_length").as_int(), 128);
  EXPECT_EQ(read_file(file("named_student/tokenizer_config.json")), read_file(file("named/tokenizer_config.json")));
}

TEST_F(Export, TeacherComesBackByteForByte) {
  ASSERT_EQ(export_as("back", {"--format", "hf-teacher"}).code, 0);
  const TensorSource teacher = TensorSource::open(file("teacher"));
  const TensorSource back = TensorSource::open(file("back"));
  ASSERT_EQ(back.names(), teacher.names());
  for (const std::string& name : teacher.names()) {
    EXPECT_EQ(back.info(name).type, teacher.info(name).type) << name;
    EXPECT_EQ(back.read_bytes(name), teacher.read_bytes(name)) << name;
  }
  EXPECT_EQ(read_file(file("back/config.json")), read_file(file("teacher/config.json")));
  EXPECT_EQ(read_file(file("back/tokenizer.json")), read_file(file("teacher/tokenizer.json")));
  EXPECT_FALSE(fs::exists(file("back/mamba_config.json")));
  expect_error(run({"export", "taught", "--out", "x", "--format", "hf-teacher"}),
               "--format hf-teacher: found a run of `matvlm teach`, expected one of `matvlm distill`");
}

TEST_F(Export, AFolderIsExportedAnew) {
  ASSERT_EQ(run({"export", "student", "--out", "anew", "--max-shard-size", "100KB"}).code, 0);
  EXPECT_EQ(run({"inspect", "student", "--compare", "anew"}).code, 0);
}

TEST_F(Export, HalfPrecisionDoesNotOverflowSilently) {
  copy("student", "large");
  const TensorSource source = TensorSource::open(file("student"));
  std::vector<TensorSpec> specs;
  for (const std::string& name : source.names()) specs.push_back({name, DType::f32, source.info(name).shape});
  SafetensorsWriter writer(file("large/model.safetensors"), specs);
  for (const TensorSpec& spec : writer.order()) {
    std::vector<float> values = source.read_floats(spec.name);
    if (spec.name == "language_model.lm_head.bias") values[3] = -70000.0F;
    writer.append_floats(spec.name, values);
  }
  writer.commit();
  expect_error(run({"export", "large", "--out", "x", "--dtype", "f16"}),
               "[export] 'language_model.lm_head.bias': found -70000, which f16 cannot hold (at most 65504); expected "
               "--dtype bf16 or f32");
  EXPECT_FALSE(fs::exists(file("x")));
}

TEST_F(Export, InspectListsAndCompares) {
  const ProgramResult list = run({"inspect", "student", "--stats"});
  EXPECT_TRUE(contains(list.out, "language_model.model.layers.0.mamba.D"));
  for (const char* part : {"min ", "max ", "mean ", "std ", "NaN 0", "metadata format: \"pt\"", "file student/model"}) {
    EXPECT_TRUE(contains(list.out, part)) << part << " in\n" << list.out;
  }
  const ProgramResult same = run({"inspect", "student", "--compare", "student"});
  EXPECT_EQ(same.code, 0) << same.err;
  EXPECT_TRUE(contains(same.out, ", 0 with the same values in another type, 0 different")) << same.out;
  const ProgramResult other = run({"inspect", "student", "--compare", "teacher"});
  EXPECT_EQ(other.code, 1);
  EXPECT_TRUE(contains(other.out, "only in student")) << other.out;
  EXPECT_TRUE(contains(other.out, "only in teacher")) << other.out;
  EXPECT_TRUE(contains(other.out, "connector._connector.2.bias") && contains(other.out, "32 of 32 values, at most"))
      << other.out;
  ASSERT_EQ(export_as("rounded", {"--dtype", "bf16"}).code, 0);
  ASSERT_EQ(run({"export", "rounded", "--out", "rounded_wide"}).code, 0);
  const ProgramResult types = run({"inspect", "rounded", "--compare", "rounded_wide"});
  EXPECT_EQ(types.code, 0) << types.out;
  EXPECT_FALSE(contains(types.out, "0 with the same values in another type")) << types.out;
}

TEST_F(Export, InspectReadsEveryLayout) {
  const std::string layouts = std::string(MATVLM_SOURCE_DIR) + "/tests/golden/checkpoints/";
  for (const char* layout : {"sharded", "parts", "bin", "bin-strided", "bin-deflated", "bin-sharded"}) {
    const ProgramResult same = run({"inspect", layouts + "single", "--compare", layouts + layout});
    EXPECT_EQ(same.code, 0) << same.out << same.err;
  }
  EXPECT_EQ(run({"inspect", layouts + "single", "--compare", layouts + "bin-f16"}).code, 1);
  EXPECT_EQ(run({"inspect", layouts + "llama", "--compare", layouts + "gguf/plain.gguf"}).code, 0);
  const ProgramResult quantised = run({"inspect", layouts + "gguf/quantised.gguf", "--stats"});
  EXPECT_TRUE(contains(quantised.out, "Q5_1") && contains(quantised.out, "general.architecture: \"llama\""))
      << quantised.out;
}

// A model in parts, as TinyLLaVA's trainer leaves it, becomes one that the published classes load.
TEST_F(Export, PartsAreExportedWhole) {
  const std::string parts = std::string(MATVLM_SOURCE_DIR) + "/tests/golden/checkpoints/parts";
  fs::copy(parts, file("parts"), fs::copy_options::recursive);
  fs::copy(file("tokenizer.json"), file("parts/tokenizer.json"));
  ASSERT_EQ(run({"export", "parts", "--out", "of_parts"}).code, 0);
  EXPECT_TRUE(TensorSource::open(file("of_parts"))
                  .has("vision_tower._vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias"));
  ASSERT_EQ(run({"export", "parts", "--out", "parts_back", "--format", "hf-teacher"}).code, 0);
  EXPECT_EQ(run({"inspect", "parts", "--compare", "parts_back"}).code, 0);
}

TEST_F(Export, EarlierStudentsMustFit) {
  expect_error(distill("w1", {"student.init_from=student", "student.ssm_layers=[0, 1]", "student.ssm_fraction=0"}),
               "key 'student.init_from': found the Mamba layers [0, 2] in student, expected [0, 1]");
  expect_error(distill("w2", {"student.previous=student", "student.ssm_layers=[0, 1]", "student.ssm_fraction=0"}),
               "key 'student.previous': found the Mamba layers [0, 2] in student, expected some of [0, 1]");
  expect_error(distill("w3", {"student.previous=teacher"}),
               "key 'student.previous': found no mamba_config.json in teacher, expected the folder of a student");
  expect_error(distill("w4", {"student.previous=student", "student.is_bias=true"}),
               "key 'student.previous': found mixers without biases in student, expected them with (student.is_bias)");
  expect_error(distill("w5", {"student.init_from=student", "student.conv_width=3"}),
               "key 'student.init_from': found mixers of 4 convolution taps in student, expected 3 "
               "(student.conv_width)");
  const ProgramResult both = distill("w6", {"student.init_from=student", "student.previous=student"});
  EXPECT_EQ(both.code, 1);
  EXPECT_TRUE(
      contains(both.logged("error").front(), "found student beside student.init_from, expected one of the two"));
}

// A tensor of the earlier student is gone, another has a shape of its own: one line names both.
TEST_F(Export, EarlierStudentsMustBeWhole) {
  copy("student", "broken");
  const TensorSource source = TensorSource::open(file("student"));
  std::vector<TensorSpec> specs;
  for (const std::string& name : source.names()) {
    if (!name.ends_with("layers.2.mamba.D")) specs.push_back({name, DType::f32, source.info(name).shape});
    if (name.ends_with("layers.0.mamba.dt_bias")) specs.back().shape = {2, 2};
  }
  SafetensorsWriter writer(file("broken/model.safetensors"), specs);
  for (const TensorSpec& spec : writer.order()) writer.append_floats(spec.name, source.read_floats(spec.name));
  writer.commit();
  const std::string problems =
      "broken: found other tensors than expected: 'language_model.model.layers.0.mamba.dt_bias' has shape [2, 2], "
      "expected [4]; missing 'language_model.model.layers.2.mamba.D' [4]";
  expect_error(distill("b1", {"student.init_from=broken"}), problems);
  expect_error(distill("b2", {"student.previous=broken", "student.ssm_layers=[0, 2, 3]", "student.ssm_fraction=0"}),
               problems);
}

TEST_F(Export, PreviousStudentsMixersAreTakenOver) {
  const ProgramResult next =
      distill("next", {"student.previous=student", "student.ssm_layers=[0, 2, 3]", "student.ssm_fraction=0"});
  ASSERT_EQ(next.code, 0) << next.err;
  ASSERT_EQ(run({"export", "next", "--out", "next_start", "--checkpoint", "start"}).code, 0);
  ASSERT_EQ(distill("fresh", {"student.ssm_layers=[0, 2, 3]", "student.ssm_fraction=0"}).code, 0);
  ASSERT_EQ(run({"export", "fresh", "--out", "fresh_start", "--checkpoint", "start"}).code, 0);
  const TensorSource student = TensorSource::open(file("student"));
  const TensorSource start = TensorSource::open(file("next_start"));
  const TensorSource fresh = TensorSource::open(file("fresh_start"));
  int mixers = 0;
  for (const std::string& name : start.names()) {
    const bool taken = student.has(name) && (contains(name, ".mamba.") || name.starts_with("connector."));
    const bool made = contains(name, "layers.3.mamba.");
    EXPECT_EQ(start.read_floats(name), (taken ? student : fresh).read_floats(name)) << name;
    if (taken && contains(name, "in_proj")) {
      EXPECT_NE(start.read_floats(name), fresh.read_floats(name)) << name;
    }
    mixers += contains(name, "mamba.in_proj") ? 1 : 0;
    EXPECT_TRUE(!made || !student.has(name)) << name;
  }
  EXPECT_EQ(mixers, 3);
  // The first losses are those of a student that knows two of its three layers already.
  const Json before = Json::parse(trace_of(file("fresh")).metrics.front(), "fresh");
  const Json after = Json::parse(trace_of(file("next")).metrics.front(), "next");
  EXPECT_LT(after.at("loss").at("layer").as_double(), before.at("loss").at("layer").as_double());
}

// A student as the published trainer saves it: attn_layers in its config, no word of ours.
TEST_F(Export, PublishedCheckpointIsAStart) {
  copy("student", "published");
  for (const char* gone : {"preprocessor_config.json", "tokenizer.json"}) fs::remove(file(cat("published/", gone)));
  const ProgramResult result = distill("from_published", {"student.init_from=published"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(run({"inspect", "published", "--compare", "student"}).code, 0);
}

// The export's tensors, and logits of the teacher's classes on them, as Python's packages read them. Skipped where
// python3 (or $MATVLM_PYTHON) has no torch, transformers and safetensors.
TEST_F(Export, PythonReadsTheSame) {
  const char* named = std::getenv("MATVLM_PYTHON");
  const std::string python = named != nullptr ? named : "python3";
  if (run_shell(dir_->path(), python + " -c 'import torch, transformers, safetensors'").code != 0) {
    GTEST_SKIP() << python << " has no torch, transformers and safetensors";
  }
  ASSERT_EQ(export_as("for_python", {"--format", "hf-teacher", "--max-shard-size", "60KB"}).code, 0);
  const std::string script = std::string(MATVLM_SOURCE_DIR) + "/tests/e2e/read_export.py";
  const ProgramResult made = run_shell(dir_->path(), python + " " + script + " for_python student python.safetensors");
  ASSERT_EQ(made.code, 0) << made.err;
  const TensorSource theirs = TensorSource::open(file("python.safetensors"));
  for (const char* folder : {"for_python", "student"}) {
    const TensorSource ours = TensorSource::open(file(folder));
    for (const std::string& name : ours.names()) {
      EXPECT_EQ(theirs.read_floats(cat(folder, ":", name)), ours.read_floats(name)) << name;
    }
  }
  const auto context = make_cpu_context(2);
  const std::vector<float> found =
      vlm_logits(*context, file("for_python"), theirs.read<int32_t>("ids"), theirs.read_floats("image"));
  EXPECT_LE(largest_difference(found, theirs.read_floats("logits")), 1e-4);
}

}  // namespace
}  // namespace matvlm::testing
