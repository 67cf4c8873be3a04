// Tiny jobs: see tiny_job.h.
#include "tests/support/tiny_job.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "tests/support/program.h"

namespace matvlm::testing {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTeachConfig = R"(run: {dir: taught, seed: 1}
device: cpu
optimizer: {lr: 1.0e-2, clip: 1.0}
schedule: {kind: constant, warmup: 0, total: 64}
data: {train: train.h5, heldout: heldout.h5, max_length: 128}
batch: {size: 8, micro: 4}
train: {eval_every: 4, eval_samples: 8}
teach:
  tokenizer: tokenizer.json
  model:
    hidden: 32
    layers: 4
    heads: 4
    kv_heads: 2
    mlp: 48
    vision: {width: 16, layers: 2, heads: 2, mlp: 24, image_size: 32, patch: 16}
)";

constexpr const char* kDistillConfig = R"(run: {dir: run, seed: 2}
device: cpu
teacher: {path: teacher}
student: {ssm_fraction: 0.5}
optimizer: {lr: 1.0e-3, clip: 1.0}
schedule: {kind: wsd, warmup: 16, decay: 16, total: 64}
data: {train: train.h5, heldout: heldout.h5, max_length: 128}
batch: {size: 8, micro: 2}
train: {eval_every: 3, eval_samples: 6, checkpoint_every: 3, keep: 2}
)";

void run_step(const std::string& folder, const std::vector<std::string>& words) {
  const ProgramResult result = run_program(folder, words);
  check(result.code == 0, "matvlm ", words[0], " ", words[1], ": found exit code ", result.code, ": ", result.err);
}

}  // namespace

std::vector<std::string> tiny_pack_words(const std::string& name) {
  return {"data",
          "pack",
          "--data",
          "data/" + name + ".json",
          "--images",
          "data/images",
          "--tokenizer",
          "tokenizer.json",
          "--out",
          name + ".h5",
          "--max-length",
          "128",
          "--tokens-per-image",
          std::to_string(kTinyTokensPerImage)};
}

void make_tiny_job(const std::string& folder) {
  run_step(folder, {"data", "synthetic", "--out", "data", "--samples", "64", "--image-size", "32"});
  run_step(folder, {"data", "tokenizer", "--data", "data/train.json", "data/heldout.json", "--out", "tokenizer.json",
                    "--vocab", std::to_string(kTinyVocabulary)});
  run_step(folder, tiny_pack_words("train"));
  run_step(folder, tiny_pack_words("heldout"));
  write_file_atomic(folder + "/teach.yaml", kTeachConfig);
  write_file_atomic(folder + "/distill.yaml", kDistillConfig);
  run_step(folder, {"teach", "teach.yaml"});
  run_step(folder, {"export", "taught", "--out", "teacher"});
}

RunTrace trace_of(const std::string& run) {
  RunTrace trace;
  for (const fs::directory_entry& entry : fs::directory_iterator(run + "/checkpoints")) {
    const std::string name = entry.path().filename().string();
    if (name.find(".tmp-") == std::string::npos) trace.checkpoint = std::max(trace.checkpoint, name);
  }
  check(!trace.checkpoint.empty(), run, ": no checkpoint");
  const std::string checkpoint = run + "/checkpoints/" + trace.checkpoint;
  trace.model = read_file(checkpoint + "/model.safetensors");
  trace.optimizer = read_file(checkpoint + "/optimizer.safetensors");
  std::ifstream file(run + "/metrics.jsonl");
  for (std::string text; std::getline(file, text);) {
    const Json line = Json::parse(text, run + "/metrics.jsonl");
    Json kept = Json::object();
    for (const std::string& key : line.keys()) {
      const bool of_the_clock = key == "tokens_per_second" || key == "memory_bytes" || key == "data_wait" ||
                                key == "comm_wait_ms" || key == "eta_seconds";
      if (!of_the_clock) kept.set(key, line.at(key));
    }
    trace.metrics.push_back(kept.dump());
  }
  return trace;
}

long last_step(const std::string& run) {
  std::ifstream file(run + "/metrics.jsonl");
  long step = 0;
  for (std::string text; std::getline(file, text) && !file.eof();) {
    step = std::max(step, static_cast<long>(Json::parse(text, run).at("step").as_int()));
  }
  return step;
}

}  // namespace matvlm::testing
