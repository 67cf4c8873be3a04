// A training run: models, data and trainer put together from a config, and the loop over updates.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "data/dataset.h"
#include "data/loader.h"
#include "distill/trainer.h"
#include "launch/config.h"
#include "launch/memory_advice.h"
#include "launch/metrics.h"
#include "launch/model_folder.h"
#include "launch/run_directory.h"
#include "launch/runtime.h"

namespace matvlm {

// Whether the frozen matrices are to be held in fp8 (precision.frozen). Error where the device cannot multiply them.
bool frozen_in_fp8(Context& ctx, const RunConfig& config);

// What both kinds of run need: the models of this rank.
struct TrainingModels {
  std::optional<LoadedModel> teacher;  // distill only
  ModelConfig config;                  // of the model that is trained
  ModelWeights weights;
  Vlm vlm;
  std::string tokenizer_file;
};
TrainingModels make_training_models(Context& ctx, const RunConfig& config);
// The trainer that a config asks for, with `recompute` as choose_recompute() says. runtime and models outlive it.
Trainer::Setup trainer_setup(Runtime& runtime, const RunConfig& config, const TrainingModels& models,
                             const RecomputeSpec& recompute);

class TrainingRun {
 public:
  // `start`: fresh makes the directory and its config.yaml; resume loads the latest checkpoint. Collective.
  TrainingRun(Process& process, const RunConfig& config, RunDirectory::Start start);
  // Runs to the end of the schedule, or to the end of the update in which a signal asks to stop. Returns the exit code.
  int run();

 private:
  void restore();
  std::vector<MicroBatch> next_update();
  // What a micro-batch of the longest rows takes.
  MemoryRequest longest_rows();
  // Runs `action`; where it runs out of memory, the message says what would fit.
  void within_memory(const std::function<void()>& action);
  void report(const UpdateReport& update, double seconds, double waited);
  bool evaluation_due() const;
  void evaluate();
  void save();
  std::map<std::string, std::string> fingerprints() const;
  double eta() const;

  RunConfig config_;
  Runtime runtime_;
  RunDirectory directory_;
  TrainingModels models_;
  Dataset train_;
  std::optional<Dataset> heldout_;
  CheckpointFolder checkpoints_;
  RunState state_;
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<Loader> loader_;
  std::unique_ptr<MetricsLog> metrics_;  // rank 0
  int64_t saved_update_ = -1;
  // Since the last logged line.
  double seconds_ = 0, waited_ = 0, comm_waited_ = 0;
  int64_t tokens_ = 0, samples_ = 0, updates_ = 0;
  double samples_per_second_ = 0;
};

// A batch from data/ as the method sees it.
MicroBatch to_micro_batch(Batch batch);

}  // namespace matvlm
