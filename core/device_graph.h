// Work of a context recorded once and run again as a whole, which costs the host one call and the device less between
// its kernels: CUDA graphs. What was recorded keeps its addresses and the numbers its kernels were given; everything
// that changes from run to run must lie in device memory.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/context.h"

namespace matvlm {

class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;
  DeviceGraph(const DeviceGraph&) = delete;
  DeviceGraph& operator=(const DeviceGraph&) = delete;

  // Runs it behind all work queued so far. May be destroyed while it runs.
  virtual void launch() = 0;
  virtual int64_t nodes() const = 0;  // kernels, copies and fills

 protected:
  DeviceGraph() = default;
};

// Why the work of `ctx` cannot be recorded; empty where it can.
std::string recording_obstacle(const Context& ctx);

// Calls `work` once; what it queues on ctx is recorded, not run. Memory that it allocates and frees is the graph's to
// use at every launch: nobody else may have it by then (StepMemory). Error when `work` waits for the device or sends
// values to it, and whatever it throws itself; the context is as before in any case.
std::unique_ptr<DeviceGraph> record_work(Context& ctx, const std::function<void()>& work);

// Of a GPU (device_graph_cuda.cpp; device_graph_no_cuda.cpp throws).
std::unique_ptr<DeviceGraph> record_cuda(Context& ctx, const std::function<void()>& work);

}  // namespace matvlm
