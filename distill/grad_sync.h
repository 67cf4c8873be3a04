// Sums the gradients of all ranks in buckets, each started as soon as the last backward of the update has finished its
// parameters, so that communication runs beside the rest of backward.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "autograd/graph.h"
#include "core/comm.h"
#include "core/device_clock.h"

namespace matvlm {

// Buckets are slices of the gradient arena, from its end to its start (the order in which backward finishes them), and
// always start in that order, whatever a rank's data leaves unused: every rank issues the same collectives.
class GradSync {
 public:
  GradSync(Context& ctx, Comm& comm, const ParameterStore& store, int64_t bucket_bytes = 25LL << 20);

  // Before the backward of the last micro-batch of an update; then hook() is given to its graph.
  void begin();
  Graph::ParameterHook hook();
  // Starts what is left (parameters that this rank did not use). What is issued from here on where it was called, on a
  // GPU the queue or the one aside, sees every gradient complete, also on one rank: those that nothing contributed to
  // since ParameterStore::begin_update() are zeros.
  void finish();

  // Seconds from the end of this rank's backward to the end of the last finish(): the part of the communication, and of
  // the wait for slower ranks, that backward did not hide. 0 on one rank. Waits for that; once for each finish().
  double take_wait_seconds();

  int64_t buckets() const { return static_cast<int64_t>(buckets_.size()); }

 private:
  struct Bucket {
    int64_t begin = 0, end = 0;  // elements of the arena
    size_t first = 0, last = 0;  // parameters
    int64_t unfinished = 0;
  };
  void start_ready(bool all);
  Context& ctx_;
  Comm& comm_;
  const ParameterStore& store_;
  std::vector<Bucket> buckets_;
  std::vector<size_t> bucket_of_;  // by position in store.parameters()
  std::map<const Parameter*, size_t> position_;
  size_t next_ = 0;
  bool active_ = false;
  std::unique_ptr<DeviceClock> clock_;
  std::vector<std::unique_ptr<CommRequest>> requests_;
};

}  // namespace matvlm
