// Stands in for device_clock_cuda.cpp where the build has no CUDA.
#include "core/device_clock.h"
#include "core/error.h"

namespace matvlm {

std::unique_ptr<DeviceClock> make_cuda_clock(Context&) { fail("[device_clock] this build has no CUDA"); }

}  // namespace matvlm
