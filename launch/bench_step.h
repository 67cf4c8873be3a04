// Measures updates of a run's config with random weights and made-up rows: nothing but the config and the teacher's
// config.json is read, so that a step of any size can be timed where its checkpoint is not.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "distill/step_flops.h"
#include "distill/step_timer.h"
#include "launch/config.h"
#include "launch/training.h"

namespace matvlm {

// Rows of an update on each rank: `batch` samples of `length` positions, which begin with a picture where the model
// has eyes and there is room for one and a word.
struct BenchShape {
  int64_t batch = 0;
  int64_t length = 0;
  std::string recompute;  // train.recompute; empty: as the config has it
};
// "4x1024" or "1x1428:blocks". Error for anything else.
BenchShape parse_bench_shape(const std::string& text);

// All ranks carry the same numbers, but for the parts, which are their own.
struct BenchResult {
  BenchShape shape;  // recompute filled in
  RecomputeSpec recompute;
  int64_t images = 0;
  double ms = 0;                 // of an update, median; the slowest rank's
  bool graphs = false;           // whether that is of steps launched as CUDA graphs, which have no parts
  double plain_ms = 0;           // the same without graphs
  StepTimer::Times parts{};      // of the median update whose parts run one after the other, without graphs
  double parts_ms = 0;           // their sum
  double tokens_per_second = 0;  // of all ranks
  StepFlops flops;               // of one rank
  double comm_ms = 0;            // the sum over ranks by itself, 0 on one rank
  int64_t comm_bytes = 0;
  int64_t peak_bytes = 0;      // live, the fullest rank's
  int64_t reserved_bytes = 0;  // taken from the device
  MemoryPlan predicted;
  double loss = 0;  // of the last update

  double tflops() const { return flops.total() / ms / 1e9; }  // of one rank
  // Share of the communication that ran beside backward, 0 to 1.
  double comm_hidden() const;
};

// Teacher and student of that config, all values at random but for mixers, which start as `student` says. `teacher`
// without Mamba layers. in_fp8: as precision.frozen.
TrainingModels make_random_models(Context& ctx, const ModelConfig& teacher, const StudentConfig& student, DType dtype,
                                  uint64_t seed, bool in_fp8 = false, Offload offload = Offload::none);

class StepBench {
 public:
  // Makes the models. Collective. Error for a config of `teach`.
  StepBench(Process& process, const RunConfig& config, bool text_only);

  Runtime& runtime() { return runtime_; }
  const TrainingModels& models() const { return models_; }
  // TFLOP/s of one large product of random numbers in the run's precision.
  double matmul_tflops();
  // `config` may differ from the constructor's in how the step is carried out, not in the model. Collective.
  BenchResult run(const RunConfig& config, const BenchShape& shape, int64_t updates);

 private:
  MicroBatch make_batch(const BenchShape& shape) const;
  // An update part by part, of which it fills in parts, parts_ms and loss.
  void run_parts(Trainer::Setup setup, const std::vector<MicroBatch>& batches, int64_t updates, BenchResult& out);
  // Median ms of an update as in training; 0 with graphs where its steps are not recorded.
  double run_whole(const Trainer::Setup& setup, const std::vector<MicroBatch>& batches, int64_t updates);
  double sum_ms(const Trainer::Setup& setup);
  Runtime runtime_;
  bool text_only_;
  StudentConfig student_;
  Offload offload_ = Offload::none;  // as the models were made
  TrainingModels models_;
};

}  // namespace matvlm
