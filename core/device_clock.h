// Times on a context's own timeline: events on a GPU's stream, which neither wait nor make anything wait, and the
// host's clock on the CPU, where work is done when its call returns.
#pragma once

#include <memory>
#include <vector>

#include "core/context.h"

namespace matvlm {

class DeviceClock {
 public:
  virtual ~DeviceClock() = default;
  DeviceClock(const DeviceClock&) = delete;
  DeviceClock& operator=(const DeviceClock&) = delete;

  // Marks the end of the work issued so far.
  virtual void mark() = 0;
  // Milliseconds of all marks since the last read(), counted from the first of them; waits for the last one.
  virtual std::vector<double> read() = 0;

 protected:
  DeviceClock() = default;
};

// For marks and reads by one thread; the context outlives the clock.
std::unique_ptr<DeviceClock> make_device_clock(Context& ctx);

// The clock of a GPU (device_clock_cuda.cpp; device_clock_no_cuda.cpp throws).
std::unique_ptr<DeviceClock> make_cuda_clock(Context& ctx);

}  // namespace matvlm
