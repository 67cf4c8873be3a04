// Five updates under mpirun against the same updates on one rank in the same process, and, bit for bit, against as many
// threads. Exit code 0 and "ok" from rank 0 when all is well, 1 and one line on stderr otherwise.
#include <cstdio>
#include <vector>

#include "core/comm_mpi.h"
#include "core/error.h"
#include "core/log.h"
#include "tests/support/rank_runs.h"

namespace matvlm::testing {
namespace {

constexpr double kTolerance = 1e-5;  // the rule of the project, as in tests/distill/test_ranks.cpp

RankRun run_alone(Context& ctx, const LossConfig& loss, int shares_of) {
  const auto comms = make_local_comms(1);
  return run_rank(ctx, *comms[0], *comms[0], loss, shares_of);
}

RankRun run_as_thread(int rank, int ranks, const LossConfig& loss) {
  std::vector<RankRun> runs(static_cast<size_t>(ranks));
  run_local_ranks(ranks, [&](Comm& comm) {
    const std::unique_ptr<Context> ctx = make_cpu_context(1);
    runs[static_cast<size_t>(comm.rank())] = run_rank(*ctx, comm, comm, loss, ranks);
  });
  return runs[static_cast<size_t>(rank)];
}

void run(const MpiRuntime& runtime) {
  const std::unique_ptr<Comm> comm = make_mpi_comm(runtime);
  check(comm->size() > 1, "found one rank, expected mpirun with two or more");
  const std::unique_ptr<Context> ctx = make_cpu_context(1);
  const std::vector<LossConfig> losses = rank_losses();
  for (size_t i = 0; i < losses.size(); ++i) {
    const RankRun found = run_rank(*ctx, *comm, *comm, losses[i], comm->size());
    check_close_runs(cat("loss ", i, ", MPI against one rank"), found, run_alone(*ctx, losses[i], comm->size()),
                     kTolerance);
    if (i > 1) continue;
    check_equal_runs(cat("loss ", i, ", MPI against threads"), found,
                     run_as_thread(comm->rank(), comm->size(), losses[i]));
    check_equal_runs(cat("loss ", i, ", a second time"), run_rank(*ctx, *comm, *comm, losses[i], comm->size()), found);
  }
  comm->barrier();
  if (comm->rank() == 0) std::printf("ok %d\n", comm->size());
}

}  // namespace
}  // namespace matvlm::testing

int main() {
  try {
    const matvlm::MpiRuntime runtime;
    matvlm::log_init(runtime.rank(), runtime.size());
    try {
      matvlm::testing::run(runtime);
    } catch (const std::exception& error) {
      matvlm::log_error(error.what());
      throw;
    }
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}
