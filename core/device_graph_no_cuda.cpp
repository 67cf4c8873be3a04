// Stands in for device_graph_cuda.cpp where the build has no CUDA.
#include "core/device_graph.h"
#include "core/error.h"

namespace matvlm {

std::unique_ptr<DeviceGraph> record_cuda(Context&, const std::function<void()>&) {
  fail("[device_graph] this build has no CUDA");
}

}  // namespace matvlm
