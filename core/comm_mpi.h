// MPI: its start and end, and the communicator of host memory over it. core/comm_mpi.cpp is the only file that includes
// the library.
#pragma once

#include <memory>
#include <string>

#include "core/comm.h"

namespace matvlm {

// MPI from construction to destruction; one per process, made at the start of main and destroyed after every
// communicator. Works without mpirun too, as one rank. Destroyed by an exception it aborts all ranks with code 1,
// because the others would wait for this one for ever.
class MpiRuntime {
 public:
  MpiRuntime();  // Error when MPI cannot start or was started before
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  // Among the ranks of this machine, found by a shared-memory split: right for every placement of ranks.
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }
  const std::string& host() const { return host_; }
  // Whether several threads may call MPI at once; without it requests run where they are started, not beside the work.
  bool thread_multiple() const { return thread_multiple_; }

  // Ends every rank with exit code `code`. From any thread, also before and after other calls.
  [[noreturn]] void abort(int code) const;

 private:
  int rank_ = 0;
  int size_ = 1;
  int local_rank_ = 0;
  int local_size_ = 1;
  std::string host_;
  bool thread_multiple_ = false;
  int exceptions_at_start_ = 0;
};

// All ranks of the program. `runtime` must outlive it; every rank makes it at the same point of the program.
//
// Sums are made here, in rank order, from messages that MPI only carries, so the bits do not depend on MPI's choice of
// an algorithm. A rank that waits sleeps in short steps instead of spinning: its core is free for the other ranks'
// work. Requests run on a thread of their own, because Open MPI moves non-blocking collectives on only inside calls to
// it.
std::unique_ptr<Comm> make_mpi_comm(const MpiRuntime& runtime);

}  // namespace matvlm
