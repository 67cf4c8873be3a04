#include "core/device_clock.h"

#include <chrono>

namespace matvlm {
namespace {

class HostClock final : public DeviceClock {
 public:
  void mark() override { marks_.push_back(Clock::now()); }
  std::vector<double> read() override {
    std::vector<double> out;
    for (const Clock::time_point mark : marks_) {
      out.push_back(std::chrono::duration<double, std::milli>(mark - marks_.front()).count());
    }
    marks_.clear();
    return out;
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::vector<Clock::time_point> marks_;
};

}  // namespace

std::unique_ptr<DeviceClock> make_device_clock(Context& ctx) {
  if (ctx.on_gpu()) return make_cuda_clock(ctx);
  return std::make_unique<HostClock>();
}

}  // namespace matvlm
