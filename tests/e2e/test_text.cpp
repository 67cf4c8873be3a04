// Language models without pictures, through the built program: tokenizer and packs from plain text, check, distill on
// two ranks, stop and resume, perplexity, generate, export, inspect; and the errors that belong to them.
#include <gtest/gtest.h>

#include <filesystem>

#include "core/file.h"
#include "core/json.h"
#include "core/rng.h"
#include "core/safetensors.h"
#include "core/tensor_source.h"
#include "data/tokenizer.h"
#include "tests/support/program.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_job.h"
#include "tests/support/tiny_model.h"

namespace matvlm::testing {
namespace {

constexpr const char* kConfig = R"(run: {dir: run, seed: 2}
device: cpu
teacher: {path: teacher}
student: {ssm_layers: [0, 2]}
loss: {reduction: per_token, layer_at: block}
optimizer: {lr: 3.0e-3, clip: 1.0}
schedule: {kind: constant, warmup: 0, total: 96}
data: {train: train.h5, heldout: heldout.h5, max_length: 24}
batch: {size: 8, micro: 2}
train: {eval_every: 6, checkpoint_every: 3, keep: 2}
)";

// Sentences of a tiny grammar, a line of JSON each.
std::string sentences(uint64_t seed, int count) {
  static const std::vector<std::string> kWho = {"the cat", "a dog", "my friend", "the old bird"};
  static const std::vector<std::string> kWhat = {"sees", "likes", "follows", "hears"};
  const Rng rng{seed, 1};
  std::string out;
  for (int i = 0; i < count; ++i) {
    const auto pick = [&](const std::vector<std::string>& from, uint64_t k) {
      return from[rng.below(static_cast<uint64_t>(4 * i) + k, from.size())];
    };
    out += R"({"text": ")" + pick(kWho, 0) + " " + pick(kWhat, 1) + " " + pick(kWho, 2) + ".\"}\n";
  }
  return out;
}

// A random Llama in Hugging Face form: bare names, as transformers writes them.
void write_teacher(const std::string& folder, int64_t vocab) {
  ModelConfig config = tiny_llama_config();
  config.text.vocab = vocab;
  config.text.end_tokens = {0};
  std::filesystem::create_directories(folder);
  write_model_config(config, folder);
  const ValueSource values = tiny_values(config);
  std::vector<TensorSpec> specs;
  for (const ModelTensor& t : model_tensors(config)) specs.push_back({t.name, DType::f32, t.shape});
  std::map<std::string, std::string> canonical;
  for (TensorSpec& spec : specs) {
    const std::string name = export_name(config, spec.name);
    canonical[name] = spec.name;
    spec.name = name;
  }
  SafetensorsWriter writer(folder + "/model.safetensors", specs);
  for (const TensorSpec& spec : writer.order()) writer.append_floats(spec.name, values(canonical[spec.name]));
  writer.commit();
}

class TextPipeline : public ::testing::Test {
 protected:
  static ProgramResult run(const std::vector<std::string>& words, int ranks = 0) {
    return run_program(dir_->path(), words, ranks);
  }
  static void must(const std::vector<std::string>& words, int ranks = 0) {
    const ProgramResult result = run(words, ranks);
    ASSERT_EQ(result.code, 0) << words[0] << ": " << result.err;
  }
  static std::string file(const std::string& name) { return dir_->file(name); }

  static void SetUpTestSuite() {
    dir_ = new TempDir;
    write_file_atomic(file("train.jsonl"), sentences(1, 300));
    write_file_atomic(file("heldout.jsonl"), sentences(2, 60));
    write_file_atomic(file("distill.yaml"), kConfig);
    must({"data", "tokenizer", "--text", "train.jsonl", "--out", "tokenizer.json", "--vocab", "300"});
    for (const std::string name : {"train", "heldout"}) {
      must({"data", "pack", "--text", name + ".jsonl", "--tokenizer", "tokenizer.json", "--out", name + ".h5",
            "--max-length", "24"});
    }
    write_teacher(file("teacher"), Tokenizer::read_file(file("tokenizer.json")).vocab_size());
    std::filesystem::copy_file(file("tokenizer.json"), file("teacher/tokenizer.json"));
    must({"distill", "distill.yaml"}, 2);
    must({"export", "run", "--out", "student"});
    must({"export", "run", "--checkpoint", "start", "--out", "start"});
  }
  static void TearDownTestSuite() { delete dir_; }

  static Json perplexity(const std::string& model) {
    must({"eval", "--model", model, "--teacher", "teacher", "--data", "heldout.h5", "--device", "cpu", "--json",
          "result.json"});
    return Json::read_file(file("result.json"));
  }

  static inline TempDir* dir_ = nullptr;
};

TEST_F(TextPipeline, DistillingBringsTheStudentToItsTeacher) {
  const Json start = perplexity("start");
  const Json after = perplexity("student");
  EXPECT_EQ(start.at("teacher_perplexity").as_double(), after.at("teacher_perplexity").as_double());
  EXPECT_LT(after.at("kl").as_double(), 0.7 * start.at("kl").as_double());
  EXPECT_GT(after.at("agreement").as_double(), start.at("agreement").as_double());
  const double ratio = after.at("perplexity").as_double() / after.at("teacher_perplexity").as_double();
  EXPECT_NEAR(after.at("ratio").as_double(), ratio, 1e-9 * ratio);
  EXPECT_NEAR(std::log(after.at("perplexity").as_double()), after.at("loss").as_double(), 1e-9);
  // The teacher as its own student.
  const Json same = perplexity("teacher");
  EXPECT_EQ(same.at("kl").as_double(), 0.0);
  EXPECT_EQ(same.at("agreement").as_double(), 1.0);
  // Beside a teacher the head runs on all positions, alone on those with labels: products of another number of rows,
  // which OpenBLAS may round otherwise in the last place.
  EXPECT_NEAR(same.at("ratio").as_double(), 1.0, 1e-6);
}

TEST_F(TextPipeline, PerplexityIsTheSameOnTwoRanksAndInAnyBatch) {
  const auto value = [](const ProgramResult& result) {
    EXPECT_EQ(result.code, 0) << result.err;
    return Json::read_file(file("r.json")).at("loss").as_double();
  };
  const double one = value(run({"eval", "--model", "student", "--data", "heldout.h5", "--json", "r.json"}));
  const double two =
      value(run({"eval", "--model", "student", "--data", "heldout.h5", "--json", "r.json", "--micro", "3"}, 2));
  EXPECT_NEAR(one, two, 1e-6 * one);
}

TEST_F(TextPipeline, AStoppedRunGoesOnWithTheSameBits) {
  must({"distill", "distill.yaml", "--set", "run.dir=half", "--set", "schedule.total=48"});
  must({"distill", "distill.yaml", "--set", "run.dir=whole"});
  must({"resume", "half", "--set", "schedule.total=96"});
  EXPECT_EQ(trace_of(file("half")).model, trace_of(file("whole")).model);
}

// Exports leave out `language_model.`: later students start from them all the same.
TEST_F(TextPipeline, LaterStudentsStartFromAnExport) {
  const auto distill = [](const std::string& dir, const std::string& start, const std::string& layers) {
    must({"distill", "distill.yaml", "--set", "run.dir=" + dir, "--set", "student." + start + "=student", "--set",
          "student.ssm_layers=" + layers, "--set", "schedule.total=24"});
    must({"export", dir, "--checkpoint", "start", "--out", dir + "-start"});
  };
  distill("again", "init_from", "[0, 2]");
  distill("more", "previous", "[0, 1, 2]");
  const TensorSource earlier = TensorSource::open(file("student"));
  for (const char* folder : {"again-start", "more-start"}) {
    const TensorSource start = TensorSource::open(file(folder));
    int64_t taken = 0;
    for (const std::string& name : earlier.names()) {
      if (name.find(".mamba.") == std::string::npos) continue;
      EXPECT_EQ(start.read_floats(name), earlier.read_floats(name)) << folder << " " << name;
      ++taken;
    }
    EXPECT_EQ(taken, 16) << folder;
  }
}

TEST_F(TextPipeline, SeveralPacksDeflatedOrNotTrainTheSame) {
  for (const std::string name : {"train", "heldout"}) {
    for (const std::string kind : {"none", "deflate"}) {
      must({"data", "pack", "--text", name + ".jsonl", "--tokenizer", "tokenizer.json", "--out",
            "part-" + kind + "-" + name + ".h5", "--max-length", "24", "--compression", kind});
    }
  }
  const auto distill = [](const std::string& dir, const std::string& packs) {
    must({"distill", "distill.yaml", "--set", "run.dir=" + dir, "--set", "data.train=" + packs, "--set",
          "schedule.total=24"});
    return trace_of(file(dir)).model;
  };
  EXPECT_EQ(distill("pattern", "part-deflate-*.h5"), distill("list", "[part-none-heldout.h5, part-none-train.h5]"));
}

// A quantised teacher, through every command that reads one.
TEST_F(TextPipeline, ATeacherInAGgufFileIsDistilledAndExported) {
  const std::string gguf = std::string(MATVLM_SOURCE_DIR) + "/tests/golden/checkpoints/gguf/quantised.gguf";
  for (const std::string name : {"train", "heldout"}) {
    must({"data", "pack", "--text", name + ".jsonl", "--tokenizer", gguf, "--out", "g-" + name + ".h5", "--max-length",
          "24", "--end-token", "<|end|>"});
  }
  must({"distill", "distill.yaml", "--set", "run.dir=g", "--set", "teacher.path=" + gguf, "--set",
        "student.ssm_layers=[0]", "--set", "data.train=g-train.h5", "--set", "data.heldout=g-heldout.h5", "--set",
        "schedule.total=24"});
  must({"export", "g", "--out", "g-student", "--max-shard-size", "100KB"});
  must({"export", "g", "--out", "g-teacher", "--format", "hf-teacher"});
  const ProgramResult same = run({"inspect", "g-teacher", "--compare", gguf});
  EXPECT_EQ(same.code, 0) << same.out << same.err;
  must({"eval", "--model", "g-teacher", "--teacher", gguf, "--data", "g-heldout.h5", "--device", "cpu", "--json",
        "g.json"});
  EXPECT_EQ(Json::read_file(file("g.json")).at("kl").as_double(), 0.0);
  for (const std::string& model : {gguf, std::string("g-student"), std::string("g")}) {
    must({"generate", "--model", model, "--prompt", "the cat", "--template", "none", "--device", "cpu"});
  }
}

// A narrow teacher's q, k and v and its gate and up are one tensor in memory each, and its files' bytes all the same.
TEST_F(TextPipeline, AFrozenTeacherComesBackByteForByte) {
  must({"export", "teacher", "--out", "b-teacher", "--dtype", "bf16", "--max-shard-size", "20KB"});
  must({"distill", "distill.yaml", "--set", "run.dir=b", "--set", "teacher.path=b-teacher", "--set",
        "schedule.total=16"});
  must({"resume", "b", "--set", "schedule.total=24"});
  must({"export", "b", "--out", "b-back", "--format", "hf-teacher"});
  must({"export", "b", "--out", "b-student", "--dtype", "bf16"});
  const TensorSource teacher = TensorSource::open(file("b-teacher"));
  const TensorSource back = TensorSource::open(file("b-back"));
  const TensorSource student = TensorSource::open(file("b-student"));
  ASSERT_EQ(back.names(), teacher.names());
  int64_t shared = 0;
  for (const std::string& name : teacher.names()) {
    ASSERT_EQ(back.info(name).type, "BF16") << name;
    ASSERT_EQ(back.info(name).shape, teacher.info(name).shape) << name;
    EXPECT_EQ(back.read_bytes(name), teacher.read_bytes(name)) << name;
    if (!student.has(name)) continue;  // attention that became a mixer
    EXPECT_EQ(student.read_bytes(name), teacher.read_bytes(name)) << name;
    ++shared;
  }
  for (const char* part : {"self_attn.k_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight"}) {
    EXPECT_TRUE(teacher.has(cat("model.layers.1.", part)) && student.has(cat("model.layers.1.", part))) << part;
  }
  EXPECT_EQ(shared, std::ssize(teacher.names()) - 2 * 4);  // q, k, v and o of two layers
}

TEST_F(TextPipeline, ExportsHaveTheNamesOfTheLanguageModelsOwnCheckpoint) {
  const TensorSource student = TensorSource::open(file("student"));
  EXPECT_TRUE(student.has("model.embed_tokens.weight"));
  EXPECT_TRUE(student.has("model.layers.0.mamba.in_proj.weight"));
  EXPECT_TRUE(student.has("model.layers.0.post_attention_layernorm.weight"));
  EXPECT_TRUE(student.has("model.layers.1.self_attn.o_proj.weight"));
  // Tied, and there all the same: the published classes load every name of theirs or nothing.
  EXPECT_EQ(student.read_floats("lm_head.weight"), student.read_floats("model.embed_tokens.weight"));
  const Json config = Json::read_file(file("student/config.json"));
  EXPECT_EQ(config.at("model_type").as_string(), "llama");
  EXPECT_EQ(config.at("architectures").at(int64_t{0}).as_string(), "LlamaForCausalLM");
  EXPECT_FALSE(std::filesystem::exists(file("student/preprocessor_config.json")));
  const ModelTensor embed = model_tensors(read_model_config(file("teacher"))).front();
  EXPECT_EQ(TensorSource::open(file("student")).read_floats("model.embed_tokens.weight"),
            TensorSource::open(file("teacher")).read_floats("model.embed_tokens.weight"))
      << embed.name;
}

TEST_F(TextPipeline, GenerateContinuesATextAndInspectAndCheckSayWhatThereIs) {
  const ProgramResult text = run({"generate", "--model", "student", "--prompt", "the cat", "--max-new-tokens", "5"});
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_FALSE(text.out.empty());
  const ProgramResult run_itself = run({"generate", "--model", "run", "--prompt", "the cat", "--max-new-tokens", "5"});
  EXPECT_EQ(run_itself.out, text.out);
  const ProgramResult pack = run({"inspect", "train.h5", "--stats"});
  EXPECT_NE(pack.out.find("pack, version 2"), std::string::npos) << pack.out;
  EXPECT_NE(pack.out.find("template text"), std::string::npos) << pack.out;
  EXPECT_EQ(run({"inspect", "student", "--stats"}).code, 0);
  const ProgramResult check = run({"check", "distill.yaml"});
  EXPECT_EQ(check.code, 0) << check.err;
  EXPECT_NE(check.out.find("2 of 4"), std::string::npos) << check.out;
}

TEST_F(TextPipeline, ChatsWithoutPictures) {
  write_file_atomic(file("chat.json"),
                    R"([{"id": "a", "conversations": [{"from": "human", "value": "who sees the cat?"},
      {"from": "gpt", "value": "a dog"}]}])");
  write_file_atomic(file("mine.yaml"),
                    "name: mine\nuser_prefix: \"Q: \"\nassistant_prefix: \" A:\"\nend_token: <|endoftext|>\n");
  must({"data", "pack", "--data", "chat.json", "--tokenizer", "tokenizer.json", "--out", "chat.h5", "--template",
        "mine.yaml"});
  must({"eval", "--model", "student", "--data", "chat.h5", "--max-new-tokens", "4"});
  must({"eval", "--model", "student", "--data", "chat.h5", "--perplexity", "--json", "chat_result.json"});
  // " a", " dog" or their pieces, and the end token.
  EXPECT_GE(Json::read_file(file("chat_result.json")).at("tokens").as_double(), 2);
  must({"distill", "distill.yaml", "--set", "data.train=chat.h5", "--set", "data.heldout=chat.h5", "--set",
        "data.max_length=64", "--set", "schedule.total=8", "--set", "loss.ce_weight=1", "--set", "run.dir=chat"});
  must({"generate", "--model", "student", "--prompt", "who?", "--template", "mine.yaml", "--max-new-tokens", "3"});
}

TEST_F(TextPipeline, Errors) {
  const auto error = [](const std::vector<std::string>& words) {
    const ProgramResult result = run(words);
    EXPECT_NE(result.code, 0) << words[0];
    return result.err;
  };
  const auto expect = [&](const std::vector<std::string>& words, const std::string& part) {
    const std::string found = error(words);
    EXPECT_NE(found.find(part), std::string::npos) << found;
  };
  expect({"data", "pack", "--tokenizer", "tokenizer.json", "--out", "x.h5"}, "found neither --data nor --text");
  expect({"data", "pack", "--data", "a", "--text", "b", "--tokenizer", "tokenizer.json", "--out", "x.h5"}, "excludes");
  expect({"generate", "--model", "student", "--prompt", "x", "--template", "vicuna"}, "found 'vicuna'");
  expect({"generate", "--model", "student", "--prompt", "x", "--image", "a.png"}, "no vision tower");
  expect({"eval", "--model", "student", "--data", "missing.h5"}, "missing.h5: cannot open");
  expect({"distill", "distill.yaml", "--set", "student.ssm_layers=[4]", "--set", "run.dir=bad"}, "student.ssm_layers");
}

}  // namespace
}  // namespace matvlm::testing
