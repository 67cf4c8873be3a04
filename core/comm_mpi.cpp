// MpiRuntime and the MPI communicator: reduce-scatter and all-gather by point-to-point messages in segments, with the
// sums made in rank order.
#define OMPI_SKIP_MPICXX 1  // the C interface only
#define MPICH_SKIP_MPICXX 1
#include "core/comm_mpi.h"

#include <mpi.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "core/comm_host.h"
#include "core/error.h"

namespace matvlm {
namespace {

// Elements of one round of a collective: bounds the scratch memory and keeps every count within MPI's int.
constexpr int64_t kSegment = int64_t{1} << 20;
// Up to this size every rank sends everything to everyone and adds for itself: one round instead of two.
constexpr int64_t kSmall = 4096;
constexpr int kPartTag = 1;
constexpr int kResultTag = 2;
constexpr int kSpins = 200;
constexpr std::chrono::microseconds kNap{20};

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  std::string line(text, static_cast<size_t>(length));
  std::replace(line.begin(), line.end(), '\n', ' ');
  fail("[mpi] ", call, ": ", line);
}

MPI_Datatype mpi_type(CommType type) {
  switch (type) {
    case CommType::f32:
      return MPI_FLOAT;
    case CommType::f64:
      return MPI_DOUBLE;
    case CommType::i64:
      return MPI_INT64_T;
    case CommType::u8:
      return MPI_UINT8_T;
  }
  fail("[mpi] found an unknown element type");
}

// One sequence of collectives on its own MPI communicator, used by one thread at a time.
class Channel {
 public:
  explicit Channel(const std::atomic<bool>& cancelled) : cancelled_(cancelled) {
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
    check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
  }
  ~Channel() {
    // MPI_Comm_free is collective: not while an error unwinds this rank only, nor with messages under way.
    if (std::uncaught_exceptions() == 0 && pending_.empty()) MPI_Comm_free(&comm_);
  }
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // Compares the calls of all ranks; an Error when they differ. All ranks pass together, so it is the barrier, too.
  void agree(const CommCall& call) {
    std::vector<CommCall> calls(static_cast<size_t>(size_));
    const int words = sizeof(CommCall) / sizeof(int64_t);
    pending_.emplace_back();
    check_mpi(MPI_Iallgather(&call, words, MPI_INT64_T, calls.data(), words, MPI_INT64_T, comm_, &pending_.back()),
              "MPI_Iallgather");
    wait_pending();
    const std::string mismatch = call_mismatch(calls);
    if (!mismatch.empty()) throw Error(mismatch);
  }

  void all_reduce(CommBuffer values, CommOp op) {
    agree(describe(kind_of(op), values.type, values.count));
    if (size_ == 1) return;
    for (int64_t begin = 0; begin < values.count; begin += kSegment) {
      const CommBuffer part = {element(values.data, begin, values.type), std::min(kSegment, values.count - begin),
                               values.type};
      if (part.count <= kSmall) {
        reduce_small(part, op);
      } else {
        reduce_large(part, op);
      }
    }
  }

  void reduce_scatter(CommInput all, CommBuffer own) {
    agree(describe(CommKind::reduce_scatter_sum, own.type, own.count));
    const int64_t segment = std::max<int64_t>(kSegment / size_, 1);
    for (int64_t begin = 0; begin < own.count; begin += segment) {
      const int64_t count = std::min(segment, own.count - begin);
      const auto part_of = [&](int peer) { return element(all.data, peer * own.count + begin, own.type); };
      for (int peer = 0; peer < size_; ++peer) send(part_of(peer), count, own.type, peer, kPartTag);
      receive_and_reduce(part_of(rank_), element(own.data, begin, own.type), count, own.type, CommOp::sum);
    }
  }

  void all_gather(CommInput own, CommBuffer all) {
    agree(describe(CommKind::all_gather, own.type, own.count));
    const int64_t bytes = own.count * comm_type_size(own.type);
    std::byte* mine = element(all.data, rank_ * own.count, all.type);
    if (bytes > 0 && mine != own.data) std::memcpy(mine, own.data, static_cast<size_t>(bytes));
    for (int64_t begin = 0; begin < own.count; begin += kSegment) {
      const int64_t count = std::min(kSegment, own.count - begin);
      for (int peer = 0; peer < size_; ++peer) {
        receive(element(all.data, peer * own.count + begin, all.type), count, all.type, peer, kResultTag);
      }
      for (int peer = 0; peer < size_; ++peer) {
        send(element(own.data, begin, own.type), count, own.type, peer, kResultTag);
      }
      wait_pending();
    }
  }

  void broadcast(CommBuffer values, int root) {
    agree(describe(CommKind::broadcast, values.type, values.count, root));
    for (int64_t begin = 0; begin < values.count; begin += kSegment) {
      const int count = static_cast<int>(std::min(kSegment, values.count - begin));
      pending_.emplace_back();
      check_mpi(MPI_Ibcast(element(values.data, begin, values.type), count, mpi_type(values.type), root, comm_,
                           &pending_.back()),
                "MPI_Ibcast");
      wait_pending();
    }
  }

 private:
  void send(const void* data, int64_t count, CommType type, int peer, int tag) {
    if (peer == rank_ || count == 0) return;
    pending_.emplace_back();
    check_mpi(MPI_Isend(data, static_cast<int>(count), mpi_type(type), peer, tag, comm_, &pending_.back()),
              "MPI_Isend");
  }

  void receive(void* data, int64_t count, CommType type, int peer, int tag) {
    if (peer == rank_ || count == 0) return;
    pending_.emplace_back();
    check_mpi(MPI_Irecv(data, static_cast<int>(count), mpi_type(type), peer, tag, comm_, &pending_.back()),
              "MPI_Irecv");
  }

  // Tests instead of MPI_Wait: that one would spin on a core which other ranks and threads need.
  void wait_pending() {
    for (int spins = 0; !pending_.empty(); ++spins) {
      int done = 0;
      check_mpi(MPI_Testall(static_cast<int>(pending_.size()), pending_.data(), &done, MPI_STATUSES_IGNORE),
                "MPI_Testall");
      if (done != 0) return pending_.clear();
      if (cancelled_) fail("[mpi] the communicator was destroyed while a collective was under way");
      if (spins > kSpins) std::this_thread::sleep_for(kNap);
    }
  }

  // Receives `count` elements of every other rank, waits for all messages, and reduces them with `mine` into `out`.
  void receive_and_reduce(const void* mine, void* out, int64_t count, CommType type, CommOp op) {
    scratch_.resize(static_cast<size_t>(count * size_ * comm_type_size(type)));
    std::vector<const void*> inputs;
    for (int peer = 0; peer < size_; ++peer) {
      std::byte* slot = element(scratch_.data(), peer * count, type);
      receive(slot, count, type, peer, kPartTag);
      inputs.push_back(peer == rank_ ? mine : slot);
    }
    wait_pending();
    if (count > 0) reduce_in_order(type, op, inputs, out, count);
  }

  void reduce_small(CommBuffer values, CommOp op) {
    for (int peer = 0; peer < size_; ++peer) send(values.data, values.count, values.type, peer, kPartTag);
    receive_and_reduce(values.data, values.data, values.count, values.type, op);
  }

  void reduce_large(CommBuffer values, CommOp op) {
    const auto part = [&](int index) {
      return element(values.data, part_begin(values.count, index, size_), values.type);
    };
    const auto part_count = [&](int index) {
      return part_begin(values.count, index + 1, size_) - part_begin(values.count, index, size_);
    };
    const int64_t own = part_count(rank_);
    for (int peer = 0; peer < size_; ++peer) send(part(peer), part_count(peer), values.type, peer, kPartTag);
    receive_and_reduce(part(rank_), part(rank_), own, values.type, op);
    for (int peer = 0; peer < size_; ++peer) receive(part(peer), part_count(peer), values.type, peer, kResultTag);
    for (int peer = 0; peer < size_; ++peer) send(part(rank_), own, values.type, peer, kResultTag);
    wait_pending();
  }

  const std::atomic<bool>& cancelled_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  std::vector<MPI_Request> pending_;
  std::vector<std::byte> scratch_;
};

class DoneRequest final : public CommRequest {
 public:
  void wait(void*) override {}
};

class MpiComm final : public Comm {
 public:
  explicit MpiComm(const MpiRuntime& runtime)
      : Comm(runtime.rank(), runtime.size()), runtime_(runtime), blocking_(cancelled_), requests_(cancelled_) {}
  // Requests whose owners have waited are done; others are given up, so that the worker can end.
  ~MpiComm() override { cancelled_ = true; }

  void barrier() override { blocking_.agree(describe(CommKind::barrier, CommType::u8, 0)); }
  void abort(int code) override { runtime_.abort(code); }

 protected:
  void run_all_reduce(CommBuffer values, CommOp op, void*) override { blocking_.all_reduce(values, op); }
  std::unique_ptr<CommRequest> start_all_reduce(CommBuffer values, CommOp op, void*) override {
    if (runtime_.thread_multiple()) return worker_.submit([this, values, op] { requests_.all_reduce(values, op); });
    requests_.all_reduce(values, op);
    return std::make_unique<DoneRequest>();
  }
  void run_reduce_scatter(CommInput all, CommBuffer own, void*) override { blocking_.reduce_scatter(all, own); }
  void run_all_gather(CommInput own, CommBuffer all, void*) override { blocking_.all_gather(own, all); }
  void run_broadcast(CommBuffer values, int root, void*) override { blocking_.broadcast(values, root); }

 private:
  const MpiRuntime& runtime_;
  std::atomic<bool> cancelled_{false};
  Channel blocking_;
  Channel requests_;
  CommWorker worker_;  // after what its tasks use
};

}  // namespace

MpiRuntime::MpiRuntime() : exceptions_at_start_(std::uncaught_exceptions()) {
  int started = 0;
  check_mpi(MPI_Initialized(&started), "MPI_Initialized");
  check(started == 0, "[mpi] found MPI started already, expected one MpiRuntime per process");
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  thread_multiple_ = provided >= MPI_THREAD_MULTIPLE;
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
  MPI_Comm local = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &local),
            "MPI_Comm_split_type");
  check_mpi(MPI_Comm_rank(local, &local_rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(local, &local_size_), "MPI_Comm_size");
  check_mpi(MPI_Comm_free(&local), "MPI_Comm_free");
  char name[MPI_MAX_PROCESSOR_NAME] = "";
  int length = 0;
  check_mpi(MPI_Get_processor_name(name, &length), "MPI_Get_processor_name");
  host_.assign(name, static_cast<size_t>(length));
}

MpiRuntime::~MpiRuntime() {
  if (std::uncaught_exceptions() > exceptions_at_start_) abort(1);
  MPI_Finalize();
}

void MpiRuntime::abort(int code) const {
  MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code == 0 ? 1 : code);  // MPI_Abort does not return, but the compiler does not know
}

std::unique_ptr<Comm> make_mpi_comm(const MpiRuntime& runtime) { return std::make_unique<MpiComm>(runtime); }

}  // namespace matvlm
