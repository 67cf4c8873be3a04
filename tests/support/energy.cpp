#include "tests/support/energy.h"

#include <dlfcn.h>

namespace matvlm::bench {
namespace {

constexpr int kSuccess = 0;  // NVML_SUCCESS
constexpr int kSmClock = 1;  // NVML_CLOCK_SM

template <class F>
bool load(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}

}  // namespace

// NVML numbers devices by their place on the bus and knows nothing of CUDA_VISIBLE_DEVICES: on a machine with several
// GPUs this is the first one's energy.
EnergyMeter::EnergyMeter() {
  library_ = dlopen("libnvidia-ml.so.1", RTLD_NOW);
  if (library_ == nullptr) return;
  int (*init)() = nullptr;
  int (*handle)(unsigned, void**) = nullptr;
  unsigned long long found = 0;
  if (!load(library_, "nvmlInit_v2", init) || !load(library_, "nvmlDeviceGetHandleByIndex_v2", handle) ||
      !load(library_, "nvmlDeviceGetTotalEnergyConsumption", energy_) ||
      !load(library_, "nvmlDeviceGetClockInfo", clock_) || init() != kSuccess || handle(0, &device_) != kSuccess ||
      energy_(device_, &found) != kSuccess) {
    device_ = nullptr;
  }
}

EnergyMeter::~EnergyMeter() {
  if (library_ != nullptr) dlclose(library_);
}

double EnergyMeter::joules() const {
  unsigned long long millijoules = 0;
  if (device_ == nullptr || energy_(device_, &millijoules) != kSuccess) return 0;
  return static_cast<double>(millijoules) * 1e-3;
}

unsigned EnergyMeter::clock() const {
  unsigned megahertz = 0;
  if (device_ == nullptr || clock_(device_, kSmClock, &megahertz) != kSuccess) return 0;
  return megahertz;
}

}  // namespace matvlm::bench
