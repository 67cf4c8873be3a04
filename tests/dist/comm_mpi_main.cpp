// The communicators under mpirun: MPI on host memory, or NCCL with one GPU a rank. Arguments MODE [DIR]
// [cpu|cuda|staged]; staged is the way of cuda, copies to device memory included, over the CPU. Modes:
//   check      every collective against exact results and, bit for bit, against threads in one process
//   loop DIR   writes DIR/pid.RANK, then reduces for ever; for the test that kills a rank
//   abort      rank 0 aborts with code 7 while the others wait for it
//   throw      the last rank throws out of main's scope while the others wait for it
// Exit code 0 and "ok" from rank 0 when all is well, 1 and one line on stderr otherwise.
#include <unistd.h>

#include <cstdio>
#include <string>

#include "core/comm_mpi.h"
#include "core/context.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "tests/support/comm_checks.h"
#include "tests/support/staged_comm.h"

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

// In the order of construction: what each needs comes before it.
struct Comms {
  std::unique_ptr<Comm> host;
  std::unique_ptr<Context> ctx;
  std::unique_ptr<Comm> device;
  std::unique_ptr<Comm> staged;
  Comm& used() const { return staged ? *staged : *host; }
};

Comms make_comms(const MpiRuntime& runtime, const std::string& device) {
  Comms out;
  out.host = make_mpi_comm(runtime);
  if (device == "cpu") return out;
  if (device == "staged") {
    out.ctx = make_cpu_context(1);
    out.staged = testing::make_staged_comm(*out.ctx, *out.host);
    return out;
  }
  check(device == "cuda", "found device '", device, "', expected cpu, cuda or staged");
  out.ctx = make_cuda_context(runtime.local_rank());
  out.device = make_nccl_comm(*out.host, runtime.local_rank());
  out.staged = testing::make_staged_comm(*out.ctx, *out.device);
  return out;
}

void run_check(const MpiRuntime& runtime, Comms& comms) {
  Comm& comm = comms.used();
  check_runtime(runtime, comm);
  testing::check_comm(comm, comms.device ? testing::kNcclPromises : testing::CommPromises());
  if (comms.device) {
    check(comms.device->async_error().empty(), "found '", comms.device->async_error(), "', expected no error");
  } else {
    check_against_threads(comm);
  }
  if (comm.rank() == 0) std::printf("ok %d\n", comm.size());
}

void run(const MpiRuntime& runtime, const std::string& mode, const std::string& folder, const std::string& device) {
  Comms comms = make_comms(runtime, device);
  Comm& comm = comms.used();
  // On NCCL the others wait inside the library, in a kernel on the device.
  const auto wait_for_all = [&] {
    std::vector<float> values(1000, 1.0F);
    comms.device ? comm.all_reduce_sum(values) : comm.barrier();
  };
  if (mode == "check") {
    run_check(runtime, comms);
  } else if (mode == "loop") {
    loop(comm, folder);
  } else if (mode == "abort") {
    if (comm.rank() == 0) comm.abort(7);
    wait_for_all();
  } else if (mode == "throw") {
    if (comm.rank() == comm.size() - 1) fail("a rank that fails alone");
    wait_for_all();
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
      matvlm::run(runtime, argc > 1 ? argv[1] : "check", argc > 2 ? argv[2] : ".", argc > 3 ? argv[3] : "cpu");
    } catch (const std::exception& error) {
      matvlm::log_error(error.what());
      throw;
    }
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}
