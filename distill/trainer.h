// The training loop's body: one update from the micro-batches of this rank. The loop around it, which fetches batches,
// logs and writes checkpoints, is in launch/.
#pragma once

#include <vector>

#include "core/comm.h"
#include "distill/grad_sync.h"
#include "distill/schedule.h"
#include "distill/step.h"
#include "distill/update.h"

namespace matvlm {

struct UpdateReport {
  LossTerms terms;  // of the whole update, all ranks
  UpdateCounts counts;
  int64_t tokens = 0;  // positions of all rows
  double grad_norm = 0;
  double lr = 0;
  double comm_wait = 0;  // seconds this rank waited for the sum of the gradients after its backward
};

class Trainer {
 public:
  // host: counts and loss terms; device: gradients, on the device of ctx unless there is only one rank. Both may be the
  // same object. All outlive the trainer.
  struct Setup {
    Context* ctx = nullptr;
    Comm* host = nullptr;
    Comm* device = nullptr;
    Models models;
    const ParameterStore* store = nullptr;
    LossConfig loss;
    OptimizerConfig optimizer;
    ScheduleConfig schedule;
    int64_t bucket_bytes = 25LL << 20;
  };
  explicit Trainer(Setup setup);

  // Update `number` (1 is the first), which begins after `samples_before` samples of the run. `batches` is this rank's
  // share and may be empty. Error on every rank, before any parameter has changed, when a loss or the gradient norm is
  // not finite.
  UpdateReport update(const std::vector<MicroBatch>& batches, int64_t number, int64_t samples_before);

  // Loss terms over this and the other ranks' batches, forward only; the denominators are those of all of them
  // together.
  struct Evaluation {
    LossTerms terms;
    UpdateCounts counts;
  };
  Evaluation evaluate(const std::vector<MicroBatch>& batches);

 private:
  struct Prepared {
    std::vector<SplicedRows> rows;
    UpdateCounts counts;  // over all ranks
    int64_t tokens = 0;
  };
  Prepared prepare(const std::vector<MicroBatch>& batches);
  LossTerms sum_over_ranks(const LossTerms& own, size_t layers);
  Setup setup_;
  GradSync sync_;
};

}  // namespace matvlm
