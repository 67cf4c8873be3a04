// The MPI communicator under mpirun. Modes (first argument):
//   check      every collective against exact results and, bit for bit, against threads in one process
//   loop DIR   writes DIR/pid.RANK, then reduces for ever; for the test that kills a rank
//   abort      rank 0 aborts with code 7 while the others wait for it
//   throw      the last rank throws out of main's scope while the others wait for it
// Exit code 0 and "ok" from rank 0 when all is well, 1 and one line on stderr otherwise.
#include <unistd.h>

#include <cstdio>
#include <string>

#include "core/comm_mpi.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "tests/support/comm_checks.h"

namespace matvlm {
namespace {

// The same values through both communicators give the same bits, the sum of a step does not know which one made it.
void check_against_threads(Comm& comm) {
  for (const int64_t count : {int64_t{3}, int64_t{5000}, int64_t{1} << 20}) {
    std::vector<float> values = testing::rank_values(comm.rank(), count);
    comm.all_reduce_sum(values);
    std::vector<float> expected;
    run_local_ranks(comm.size(), [&](Comm& local) {
      std::vector<float> own = testing::rank_values(local.rank(), count);
      local.all_reduce_sum(own);
      if (local.rank() == 0) expected = own;
    });
    testing::check_same_bits("MPI against threads", values, expected);
  }
}

void check_runtime(const MpiRuntime& runtime, Comm& comm) {
  check(runtime.rank() == comm.rank() && runtime.size() == comm.size(), "ranks of runtime and communicator differ");
  check(runtime.local_rank() >= 0 && runtime.local_rank() < runtime.local_size(), "bad local rank");
  // All ranks of this test run on one machine.
  check(runtime.local_rank() == runtime.rank() && runtime.local_size() == runtime.size(), "found local rank ",
        runtime.local_rank(), " of ", runtime.local_size(), ", expected ", runtime.rank(), " of ", runtime.size());
  check(!runtime.host().empty(), "no host name");
  check(testing::comm_error_of([] { MpiRuntime second; }).starts_with("[mpi] found MPI started already"),
        "a second MpiRuntime was accepted");
}

void loop(Comm& comm, const std::string& folder) {
  write_file_atomic(cat(folder, "/pid.", comm.rank()), std::to_string(getpid()));
  while (true) {
    std::vector<float> values(10000, 1.0F);
    const auto request = comm.start_all_reduce_sum(values);
    comm.barrier();
    request->wait();
  }
}

void run(const MpiRuntime& runtime, const std::string& mode, const std::string& folder) {
  const std::unique_ptr<Comm> comm = make_mpi_comm(runtime);
  if (mode == "check") {
    check_runtime(runtime, *comm);
    testing::check_comm(*comm);
    check_against_threads(*comm);
    if (comm->rank() == 0) std::printf("ok %d\n", comm->size());
  } else if (mode == "loop") {
    loop(*comm, folder);
  } else if (mode == "abort") {
    if (comm->rank() == 0) comm->abort(7);
    comm->barrier();
  } else if (mode == "throw") {
    if (comm->rank() == comm->size() - 1) fail("a rank that fails alone");
    comm->barrier();
  } else {
    fail("found mode '", mode, "', expected check, loop, abort or throw");
  }
}

}  // namespace
}  // namespace matvlm

int main(int argc, char** argv) {
  try {
    const matvlm::MpiRuntime runtime;
    matvlm::log_init(runtime.rank(), runtime.size());
    try {
      matvlm::run(runtime, argc > 1 ? argv[1] : "check", argc > 2 ? argv[2] : ".");
    } catch (const std::exception& error) {
      matvlm::log_error(error.what());
      throw;
    }
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}
