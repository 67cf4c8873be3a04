// N ranks of B samples equal one rank of N * B: over threads here, over mpirun in tests/dist/ranks_mpi_main.cpp, over
// NCCL with one rank in the Cuda suite.
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/op_check.h"
#include "tests/support/rank_runs.h"

namespace matvlm::testing {
namespace {

// The rule of the project. Sums of gradients in another order were measured to move a tensor by 6e-8 at most.
constexpr double kTolerance = 1e-5;

std::vector<RankRun> run_threads(int ranks, const LossConfig& loss) {
  std::vector<RankRun> out(static_cast<size_t>(ranks));
  run_local_ranks(ranks, [&](Comm& comm) {
    const std::unique_ptr<Context> ctx = make_cpu_context(1);
    out[static_cast<size_t>(comm.rank())] = run_rank(*ctx, comm, comm, loss, ranks);
  });
  return out;
}

RankRun run_alone(const LossConfig& loss, int shares_of) {
  const std::unique_ptr<Context> ctx = make_cpu_context(1);
  const auto comms = make_local_comms(1);
  return run_rank(*ctx, *comms[0], *comms[0], loss, shares_of);
}

TEST(Ranks, SharesCoverTheWholeAndDiffer) {
  for (const int ranks : {2, 3}) {
    for (int64_t update = 0; update < kRankUpdates; ++update) {
      int64_t rows = 0, images = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        for (const MicroBatch& batch : rank_share(update, rank, ranks)) {
          rows += static_cast<int64_t>(batch.rows.image_of_row.size());
          images += batch.n_images;
        }
      }
      EXPECT_EQ(rows, samples_of(update, ranks));
      EXPECT_EQ(images, whole_share(update, ranks)[0].n_images);
    }
    EXPECT_EQ(rank_share(1, 0, ranks)[0].n_images, 0);
    EXPECT_FALSE(rank_share(1, 0, ranks)[0].rows.image_of_row.empty());
    EXPECT_TRUE(rank_share(2, ranks - 1, ranks).empty());
    EXPECT_EQ(rank_share(3, 0, ranks).size(), 2U);
    EXPECT_EQ(rank_share(3, 1, ranks).size(), 3U);
    EXPECT_TRUE(rank_share(4, 0, ranks)[1].rows.image_of_row.empty());
  }
}

TEST(Ranks, ThreadsEqualOneRank) {
  for (const LossConfig& loss : rank_losses()) {
    for (const int ranks : {2, 3}) {
      const RankRun alone = run_alone(loss, ranks);
      const std::vector<RankRun> runs = run_threads(ranks, loss);
      for (const RankRun& run : runs) {
        EXPECT_NO_THROW(check_close_runs(cat(ranks, " ranks"), run, alone, kTolerance));
        EXPECT_NO_THROW(check_equal_runs("rank against rank 0", run, runs[0]));
      }
    }
  }
}

TEST(Ranks, TwoRunsGiveTheSameBits) {
  const LossConfig loss = rank_losses()[0];
  const std::vector<RankRun> first = run_threads(3, loss);
  const std::vector<RankRun> second = run_threads(3, loss);
  EXPECT_NO_THROW(check_equal_runs("a second run", second[1], first[1]));
}

// The comparison itself: a rank that forgets its rows, and a parameter a little off, are found.
TEST(Ranks, TheComparisonSeesDifferences) {
  const LossConfig loss = rank_losses()[0];
  const RankRun run = run_alone(loss, 2);
  RankRun off = run;
  for (float& v : off.masters[3]) v *= 1.0F + 2e-5F;
  EXPECT_THROW(check_close_runs("off", off, run, kTolerance), Error);
  EXPECT_THROW(check_equal_runs("off", off, run), Error);
  off = run;
  off.grad_norms[2] *= 1.0001;
  EXPECT_THROW(check_close_runs("off", off, run, kTolerance), Error);
  const RankRun fewer = run_alone(loss, 3);  // other rows
  EXPECT_THROW(check_close_runs("other rows", fewer, run, kTolerance), Error);
}

// One NCCL rank sums its gradients with nobody: the same bits as without a communicator on the device, on any stream
// order.
TEST(RanksCuda, OneNcclRankEqualsNone) {
  if (!have_nccl()) GTEST_SKIP() << "this build has no NCCL";
  const std::unique_ptr<Context> ctx = new_cuda();
  const auto comms = make_local_comms(1);
  const std::unique_ptr<Comm> nccl = make_nccl_comm(*comms[0], 0);
  for (const LossConfig& loss : rank_losses()) {
    const RankRun without = run_rank(*ctx, *comms[0], *comms[0], loss, 2);
    const RankRun with = run_rank(*ctx, *comms[0], *nccl, loss, 2);
    EXPECT_NO_THROW(check_equal_runs("NCCL", with, without));
  }
}

// The GPU's updates against the CPU's: the same method, so that a rank on another device would not spoil a run. The
// bound is that of gradients on two devices (2e-4, golden steps) over steps of 2e-4 of the weights, with room for
// entries whose gradient is near zero, which AdamW moves by up to a whole step.
TEST(RanksCuda, GpuUpdatesAreTheCpus) {
  const LossConfig loss = rank_losses()[0];
  const std::unique_ptr<Context> ctx = new_cuda();
  const auto comms = make_local_comms(1);
  const RankRun gpu = run_rank(*ctx, *comms[0], *comms[0], loss, 2);
  EXPECT_NO_THROW(check_close_runs("GPU against CPU", gpu, run_alone(loss, 2), 1e-4));
}

}  // namespace
}  // namespace matvlm::testing
