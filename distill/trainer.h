// The training loop's body: one update from the micro-batches of this rank. The loop around it, which fetches batches,
// logs and writes checkpoints, is in launch/.
#pragma once

#include <array>
#include <exception>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/comm.h"
#include "distill/grad_sync.h"
#include "distill/schedule.h"
#include "distill/step.h"
#include "distill/step_graphs.h"
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
    GraphUse cuda_graph = GraphUse::off;
    WorkRecorder recorder;  // of tests; empty: record_work()
  };
  explicit Trainer(Setup setup);

  // What the host does for an update: rows spliced and counted over all ranks, everything sent to the device.
  struct Prepared {
    std::vector<StepInputs> steps;  // of the micro-batches with rows
    UpdateCounts counts;            // over all ranks
    int64_t tokens = 0;
    std::exception_ptr error;  // what went wrong here
    int64_t failed_ranks = 0;  // that have an error
  };

  // An update in three steps, so that the next one can be prepared while the device computes this one:
  //   prepare -> begin -> (prepare the next -> look_ahead) -> finish
  // Every rank makes the same calls in the same order. `fetch` returns this rank's micro-batches, maybe none. What it
  // or the rest of prepare() throws is kept until begin(), so that the update before comes to its end on every rank.
  using Fetch = std::function<std::vector<MicroBatch>()>;
  Prepared prepare(const Fetch& fetch);
  // Update `number` (1 is the first), which begins after `samples_before` samples of the run: gradients. On a GPU the
  // work is queued only. Error on every rank when the preparation failed on one, or without samples. What was prepared
  // is used up: a recorded step keeps its memory and writes later updates' values there.
  void begin(const Prepared& prepared, int64_t number, int64_t samples_before);
  // Between begin() and finish(): queues what of the next update needs no trained parameter, the teacher's pass over
  // its first micro-batch. On a GPU the parameters change beside it then, and nothing of the device's time is lost
  // while the host waits for the loss. No call, or another update than `next`, costs only that time: the results are
  // the same bits. Nothing happens where steps are recorded as graphs or timed part by part, or where `next` has an
  // error.
  void look_ahead(const Prepared& next);
  // Waits for the gradients and changes the parameters: work queued on the context after this call sees the new ones.
  // Error on every rank, before any parameter has changed, when a loss or the gradient norm is not finite.
  UpdateReport finish();

  // All three.
  UpdateReport update(const std::vector<MicroBatch>& batches, int64_t number, int64_t samples_before);

  // Loss terms over this and the other ranks' batches, forward only; the denominators are those of all of them
  // together.
  struct Evaluation {
    LossTerms terms;
    UpdateCounts counts;
  };
  Evaluation evaluate(const std::vector<MicroBatch>& batches);

  const StepGraphs& graphs() const { return graphs_; }

 private:
  // The update between begin() and finish().
  struct Running {
    int64_t number = 0;
    double lr = 0;
    UpdateCounts counts;
    int64_t tokens = 0;
    std::vector<Tensor> terms;    // of each step, joined
    std::vector<Tensor> results;  // those and the square of the gradient norm, once the gradients are summed
  };
  // The teacher's pass of an update that has not begun yet.
  struct Ahead {
    StepInputs inputs;
    std::optional<TeacherOutput> teacher;
  };
  // A micro-batch whose rows are counted, with its pictures on the device; `batch` has nothing else.
  struct CountedBatch {
    MicroBatch batch;
    SplicedRows rows;
  };
  CountedBatch count_batch(const MicroBatch& batch, std::array<int64_t, 5>& sums);
  void make_steps(const std::vector<CountedBatch>& batches, bool backward, Prepared& out);
  // All of it; what goes wrong is kept in the result.
  Prepared prepare(const Fetch& fetch, bool backward);
  void check_prepared(const Prepared& prepared, const std::string& what);
  void count_over_ranks(Prepared& out, std::array<int64_t, 5>& sums);
  // The gradients of one step and its loss terms, joined.
  Tensor gradient_step(const StepInputs& inputs, bool first, const Graph::ParameterHook& hook);
  // The sum of the gradients over the ranks and their norm, queued aside, once for each update.
  void end_gradients();
  LossTerms own_terms(const std::vector<Tensor>& terms, std::span<const double> values) const;
  LossTerms sum_over_ranks(const LossTerms& own, size_t layers);
  Setup setup_;
  GradSync sync_;
  StepGraphs graphs_;
  std::optional<Running> running_;
  std::optional<Ahead> ahead_;
};

}  // namespace matvlm
