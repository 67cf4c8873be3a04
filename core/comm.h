// Comm: the collectives of data-parallel training over typed spans. Implementations: threads of one process
// (comm_local), MPI on host memory (comm_mpi), NCCL on device memory (comm_nccl).
//
// Every rank must issue the same collectives with the same sizes in the same order; where they differ, host
// communicators throw an Error that names both calls. Results are the same bits on every rank and in every run with the
// same number of ranks: the host communicators add in rank order, ((v0 + v1) + v2) + ..., whatever the sizes, so local
// and MPI agree bit for bit. NCCL's order is fixed by the machine and the sizes.
//
// `stream` (a cudaStream_t) matters to NCCL only: the collective starts after the work already queued on it, and work
// queued later sees the result. With a null stream the data must be ready and the call returns when the result is.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace matvlm {

enum class CommType { f32, f64, i64, u8 };
enum class CommOp { sum, max };

// Untyped form of the spans, for implementations only.
struct CommBuffer {
  void* data = nullptr;
  int64_t count = 0;
  CommType type = CommType::f32;
};
struct CommInput {
  const void* data = nullptr;
  int64_t count = 0;
  CommType type = CommType::f32;
};

// A collective under way. The buffer belongs to it until wait(); the destructor waits too, but tells of no error.
class CommRequest {
 public:
  virtual ~CommRequest() = default;
  // Host buffers: returns when the result is there. Device buffers: work queued later on `stream` (or the host, when it
  // is null) sees the result. Throws the Error of the collective. May be called twice.
  virtual void wait(void* stream = nullptr) = 0;
};

class Comm {
 public:
  virtual ~Comm() = default;
  Comm(const Comm&) = delete;
  Comm& operator=(const Comm&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  // Whether the spans are device memory.
  virtual bool on_gpu() const { return false; }

  // In place, element by element.
  void all_reduce_sum(std::span<float> values, void* stream = nullptr) { reduce(values, CommOp::sum, stream); }
  void all_reduce_sum(std::span<double> values, void* stream = nullptr) { reduce(values, CommOp::sum, stream); }
  void all_reduce_sum(std::span<int64_t> values, void* stream = nullptr) { reduce(values, CommOp::sum, stream); }
  // On the host a NaN of any rank is the result.
  void all_reduce_max(std::span<float> values, void* stream = nullptr) { reduce(values, CommOp::max, stream); }
  void all_reduce_max(std::span<double> values, void* stream = nullptr) { reduce(values, CommOp::max, stream); }
  void all_reduce_max(std::span<int64_t> values, void* stream = nullptr) { reduce(values, CommOp::max, stream); }

  // Starts a sum that runs beside the caller's work. Requests are served in the order of their start, apart from the
  // blocking collectives, which may overtake them.
  std::unique_ptr<CommRequest> start_all_reduce_sum(std::span<float> values, void* stream = nullptr) {
    return start_all_reduce(buffer(values), CommOp::sum, stream);
  }

  // own [c] = slice `rank` of the sum over ranks of all [size * c]. `own` may be that slice of `all`.
  void reduce_scatter_sum(std::span<const float> all, std::span<float> own, void* stream = nullptr) {
    scatter(all, own, stream);
  }
  void reduce_scatter_sum(std::span<const double> all, std::span<double> own, void* stream = nullptr) {
    scatter(all, own, stream);
  }

  // all [size * c] = own [c] of rank 0, of rank 1, ... `own` may be its slice of `all`.
  void all_gather(std::span<const float> own, std::span<float> all, void* stream = nullptr) {
    gather(own, all, stream);
  }
  void all_gather(std::span<const double> own, std::span<double> all, void* stream = nullptr) {
    gather(own, all, stream);
  }
  void all_gather(std::span<const int64_t> own, std::span<int64_t> all, void* stream = nullptr) {
    gather(own, all, stream);
  }
  void all_gather(std::span<const uint8_t> own, std::span<uint8_t> all, void* stream = nullptr) {
    gather(own, all, stream);
  }

  // Rank `root`'s values become everyone's.
  void broadcast(std::span<float> values, int root, void* stream = nullptr) { send(values, root, stream); }
  void broadcast(std::span<double> values, int root, void* stream = nullptr) { send(values, root, stream); }
  void broadcast(std::span<int64_t> values, int root, void* stream = nullptr) { send(values, root, stream); }
  void broadcast(std::span<uint8_t> values, int root, void* stream = nullptr) { send(values, root, stream); }

  // Returns when every rank has called it (NCCL: and its communication so far is done).
  virtual void barrier() = 0;

  // Ends the work of all ranks. MPI and NCCL end every process with exit code `code` and do not return; threads of
  // comm_local get an Error from the collective they wait in or call next. May be called from any thread.
  virtual void abort(int code) = 0;

  // A failure that the library found in the background, or "". Cheap; a Watchdog polls it.
  virtual std::string async_error() { return ""; }

 protected:
  Comm(int rank, int size) : rank_(rank), size_(size) {}

  virtual void run_all_reduce(CommBuffer values, CommOp op, void* stream) = 0;
  virtual std::unique_ptr<CommRequest> start_all_reduce(CommBuffer values, CommOp op, void* stream) = 0;
  // Sizes are checked: all.count == size * own.count.
  virtual void run_reduce_scatter(CommInput all, CommBuffer own, void* stream) = 0;
  virtual void run_all_gather(CommInput own, CommBuffer all, void* stream) = 0;
  virtual void run_broadcast(CommBuffer values, int root, void* stream) = 0;

 private:
  static constexpr CommType type_of(const float*) { return CommType::f32; }
  static constexpr CommType type_of(const double*) { return CommType::f64; }
  static constexpr CommType type_of(const int64_t*) { return CommType::i64; }
  static constexpr CommType type_of(const uint8_t*) { return CommType::u8; }
  template <class T>
  static CommBuffer buffer(std::span<T> values) {
    return {values.data(), static_cast<int64_t>(values.size()), type_of(values.data())};
  }
  template <class T>
  static CommInput input(std::span<const T> values) {
    return {values.data(), static_cast<int64_t>(values.size()), type_of(values.data())};
  }
  template <class T>
  void reduce(std::span<T> values, CommOp op, void* stream) {
    run_all_reduce(buffer(values), op, stream);
  }
  template <class T>
  void scatter(std::span<const T> all, std::span<T> own, void* stream) {
    check_sizes("reduce_scatter_sum", static_cast<int64_t>(own.size()), static_cast<int64_t>(all.size()));
    run_reduce_scatter(input(all), buffer(own), stream);
  }
  template <class T>
  void gather(std::span<const T> own, std::span<T> all, void* stream) {
    check_sizes("all_gather", static_cast<int64_t>(own.size()), static_cast<int64_t>(all.size()));
    run_all_gather(input(own), buffer(all), stream);
  }
  template <class T>
  void send(std::span<T> values, int root, void* stream) {
    check_root(root);
    run_broadcast(buffer(values), root, stream);
  }
  void check_sizes(const char* name, int64_t own, int64_t all) const;
  void check_root(int root) const;

  int rank_;
  int size_;
};

// `text` of rank `root`, on a communicator of host memory.
std::string broadcast_string(Comm& comm, const std::string& text, int root);

// N ranks in one process: communicator i is for one thread at a time. A destroyed one counts as a rank that has left:
// the others get an Error instead of waiting for it.
std::vector<std::unique_ptr<Comm>> make_local_comms(int size);

// Runs work(comm) of every rank in a thread of its own. When one throws, the others are released; the first exception
// is thrown again after all threads have ended.
void run_local_ranks(int size, const std::function<void(Comm&)>& work);

// NCCL on GPU `device` of this process, with the ranks of `host`, which must outlive it. Error in a build without NCCL
// (have_nccl()), or when NCCL or CUDA say so.
bool have_nccl();
std::unique_ptr<Comm> make_nccl_comm(Comm& host, int device);

}  // namespace matvlm
