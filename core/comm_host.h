// What the communicators of host memory share: the description of a call that ranks compare before they exchange data,
// the reduction in rank order, and the thread that serves asynchronous requests.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "core/comm.h"

namespace matvlm {

enum class CommKind : int64_t { barrier, all_reduce_sum, all_reduce_max, reduce_scatter_sum, all_gather, broadcast };

// Four int64 so that it can travel as such.
struct CommCall {
  CommKind kind = CommKind::barrier;
  int64_t type = 0;  // CommType
  int64_t count = 0;
  int64_t root = 0;
  bool operator==(const CommCall&) const = default;
};
static_assert(sizeof(CommCall) == 4 * sizeof(int64_t));

CommCall describe(CommKind kind, CommType type, int64_t count, int root = 0);
inline CommKind kind_of(CommOp op) { return op == CommOp::sum ? CommKind::all_reduce_sum : CommKind::all_reduce_max; }

// "" when all ranks make the same call, else the message of the Error.
std::string call_mismatch(std::span<const CommCall> calls);

int64_t comm_type_size(CommType type);
inline std::byte* element(void* data, int64_t index, CommType type) {
  return static_cast<std::byte*>(data) + index * comm_type_size(type);
}
inline const std::byte* element(const void* data, int64_t index, CommType type) {
  return static_cast<const std::byte*>(data) + index * comm_type_size(type);
}

// out[i] = inputs[0][i] op inputs[1][i] op ... in this order. `out` may be one of the inputs.
void reduce_in_order(CommType type, CommOp op, std::span<const void* const> inputs, void* out, int64_t count);

// Bounds of part `index` of `count` elements in `parts` parts.
inline int64_t part_begin(int64_t count, int64_t index, int64_t parts) {
  return count / parts * index + std::min(index, count % parts);
}

// One thread that runs tasks in the order of submission. The destructor lets the running task end and drops the others
// (their wait() throws), so a task that waits for another rank must be released first.
class CommWorker {
 public:
  CommWorker();
  ~CommWorker();
  CommWorker(const CommWorker&) = delete;
  CommWorker& operator=(const CommWorker&) = delete;
  std::unique_ptr<CommRequest> submit(std::function<void()> task);

  struct Job;  // a submitted task and its state

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Job>> jobs_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace matvlm
