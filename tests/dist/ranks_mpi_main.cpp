// Five updates under mpirun against the same updates on one rank in the same process, and bit for bit a second time.
// Argument cpu: over MPI, and bit for bit against as many threads. cuda: over NCCL, one GPU a rank. Exit code 0 and
// "ok" from rank 0 when all is well, 1 and one line on stderr otherwise.
#include <algorithm>
#include <cstdio>
#include <string>
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

void run(const MpiRuntime& runtime, const std::string& device) {
  check(device == "cpu" || device == "cuda", "found device '", device, "', expected cpu or cuda");
  const bool gpu = device == "cuda";
  const std::unique_ptr<Comm> host = make_mpi_comm(runtime);
  const int ranks = host->size();
  check(ranks > 1, "found one rank, expected mpirun with two or more");
  const std::unique_ptr<Context> ctx = gpu ? make_cuda_context(runtime.local_rank()) : make_cpu_context(1);
  const std::unique_ptr<Comm> nccl = gpu ? make_nccl_comm(*host, runtime.local_rank()) : nullptr;
  Comm& comm = gpu ? *nccl : *host;
  const std::string name = gpu ? "NCCL" : "MPI";
  const std::vector<LossConfig> losses = rank_losses();
  double largest = 0;
  for (size_t i = 0; i < losses.size(); ++i) {
    const RankRun found = run_rank(*ctx, *host, comm, losses[i], ranks);
    const RankRun alone = run_alone(*ctx, losses[i], ranks);
    largest = std::max(largest, largest_distance(found, alone));
    check_close_runs(cat("loss ", i, ", ", name, " against one rank"), found, alone, kTolerance);
    if (i > 1) continue;
    if (!gpu)
      check_equal_runs(cat("loss ", i, ", MPI against threads"), found, run_as_thread(host->rank(), ranks, losses[i]));
    check_equal_runs(cat("loss ", i, ", a second time"), run_rank(*ctx, *host, comm, losses[i], ranks), found);
  }
  std::vector<double> over_ranks = {largest};
  host->all_reduce_max(over_ranks);
  host->barrier();
  if (host->rank() == 0) {
    std::printf("ok %d, largest relative difference of a tensor %.1e, bound %.0e\n", ranks, over_ranks[0], kTolerance);
  }
}

}  // namespace
}  // namespace matvlm::testing

int main(int argc, char** argv) {
  try {
    const matvlm::MpiRuntime runtime;
    matvlm::log_init(runtime.rank(), runtime.size());
    try {
      matvlm::testing::run(runtime, argc > 1 ? argv[1] : "cpu");
    } catch (const std::exception& error) {
      matvlm::log_error(error.what());
      throw;
    }
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}
