// What a process of a job owns: MPI, logging and signals (Process, made in main), then device, threads and
// communicators (Runtime, made by a command once it knows its config). Destroyed in reverse order; nothing of it is
// global but the flag that signal handlers set.
#pragma once

#include <memory>
#include <string>

#include "core/comm.h"
#include "core/comm_mpi.h"
#include "core/context.h"
#include "core/dtype.h"
#include "launch/config.h"

namespace matvlm {

class Process {
 public:
  // Starts MPI (one rank without mpirun) and logging; SIGTERM and SIGINT from here on only set a flag.
  Process();
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  int rank() const { return mpi_->rank(); }
  int size() const { return mpi_->size(); }
  const MpiRuntime& mpi() const { return *mpi_; }
  // All ranks, host memory.
  Comm& host() { return *host_; }

  // Appends the log to a file as well, on rank 0.
  void log_to(const std::string& file) const;

  // Logs a failure as one line and ends the job: with several ranks by MPI_Abort, which does not return. Other ranks
  // than 0 wait some seconds first, because when all fail for the same reason one line is enough: rank 0 ends them
  // meanwhile. Returns the exit code for main.
  int report_failure(const std::string& message) const;

 private:
  std::unique_ptr<MpiRuntime> mpi_;
  std::unique_ptr<Comm> host_;
};

// Whether this process got SIGTERM or SIGINT.
bool stop_requested();
// Whether any rank did. Collective: called by all at the end of each update, so that all stop after the same one.
bool stop_agreed(Comm& host);

// Threads of a rank: the cores this process may use divided by the ranks on the machine, at least 1; OMP_NUM_THREADS,
// where set, says it instead (Error when it is no whole number above 0).
int threads_per_rank(int local_ranks);

class Runtime {
 public:
  // Error: no such device, more ranks on a machine than GPUs, several GPU ranks without NCCL, bf16 on the CPU.
  Runtime(Process& process, DeviceChoice device, DType precision);
  // After an exception with several ranks the device communicator and context are left to the end of the process, which
  // is near: destroying them could wait for work that other ranks will never do.
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  Context& ctx() { return gpu_ ? *gpu_ : *cpu_; }
  // For work on host memory; ctx() itself without a GPU.
  Context& host_ctx() { return *cpu_; }
  // Over host memory: counts, losses, texts.
  Comm& host() { return process_.host(); }
  // Over the memory of ctx(): gradients. host() itself without a GPU, and on one GPU rank in a build without NCCL,
  // where there is nobody to talk to.
  Comm& device_comm() { return nccl_ ? *nccl_ : process_.host(); }
  DType precision() const { return precision_; }
  int threads() const { return threads_; }
  // "2 ranks on 1 machine, NVIDIA H100 ..., f32, 8 threads"
  std::string description();

 private:
  Process& process_;
  DType precision_;
  int threads_;
  int exceptions_at_start_;
  std::unique_ptr<Context> cpu_;
  std::unique_ptr<Context> gpu_;
  std::unique_ptr<Comm> nccl_;
};

// As the command line writes them: auto, cpu, cuda; f32, bf16. Error "key: found X, expected ...".
DeviceChoice parse_device(const std::string& text);
DType parse_precision(const std::string& text);

}  // namespace matvlm
