#include "core/device_graph.h"

#include "core/error.h"

namespace matvlm {

std::string recording_obstacle(const Context& ctx) {
  if (!ctx.on_gpu()) return "a device that is no GPU";
  return ctx.computes() ? "" : "a device that only counts memory";
}

std::unique_ptr<DeviceGraph> record_work(Context& ctx, const std::function<void()>& work) {
  const std::string obstacle = recording_obstacle(ctx);
  check(obstacle.empty(), "[device_graph] found ", obstacle);
  return record_cuda(ctx, work);
}

}  // namespace matvlm
