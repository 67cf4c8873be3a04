// The same five updates on any number of ranks: what each rank gets, the run, and the comparison of two results. Used
// by threads, MPI and NCCL alike. A failed comparison throws an Error.
#pragma once

#include <string>
#include <vector>

#include "core/comm.h"
#include "tests/support/tiny_model.h"

namespace matvlm::testing {

inline constexpr int64_t kRankUpdates = 5;

// Micro-batches of `rank` of `ranks` in update 0 ... 4. Rows are of unequal length, a third of them text only, and the
// updates differ in what they do to the ranks:
//   0: one micro-batch of four rows each
//   1: rank 0 gets all text-only rows and no other (its connector has no gradient)
//   2: the last rank gets nothing at all
//   3: accumulation: three micro-batches on odd ranks, two on even ones
//   4: the last micro-batch of rank 0 has no rows
std::vector<MicroBatch> rank_share(int64_t update, int rank, int ranks);
// The rows of all ranks as one micro-batch.
std::vector<MicroBatch> whole_share(int64_t update, int ranks);
int64_t samples_of(int64_t update, int ranks);

// What a run ends with.
struct RankRun {
  std::vector<std::string> names;
  std::vector<std::vector<float>> masters;
  std::vector<double> totals;      // loss of each update
  std::vector<double> grad_norms;  // of each update
  double evaluated = 0;            // loss of update 0's rows after the run
};

// The five updates with the shares of `shares_of` ranks: as this rank of them, or, when `shares_of` is not the
// communicator's size, all of them on one rank. Buckets are small, so that there are several.
RankRun run_rank(Context& ctx, Comm& host, Comm& device, const LossConfig& loss, int shares_of);

// Both reductions, and every kind of loss in one of them.
std::vector<LossConfig> rank_losses();

// Every parameter tensor within `tolerance`, the norm of the difference over the norm; losses and gradient norms too.
void check_close_runs(const std::string& what, const RankRun& found, const RankRun& expected, double tolerance);
// Largest of the tensors' relative differences, as check_close_runs takes them.
double largest_distance(const RankRun& found, const RankRun& expected);
void check_equal_runs(const std::string& what, const RankRun& found, const RankRun& expected);

}  // namespace matvlm::testing
