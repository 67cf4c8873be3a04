// Energy of the first GPU by the driver's management library (NVML), loaded at run time: benchmarks run without it.
#pragma once

#include <cstdint>

namespace matvlm::bench {

class EnergyMeter {
 public:
  EnergyMeter();
  ~EnergyMeter();
  EnergyMeter(const EnergyMeter&) = delete;
  EnergyMeter& operator=(const EnergyMeter&) = delete;

  bool available() const { return device_ != nullptr; }
  // Joules since the driver was loaded, in steps of some 20 to 100 ms of work; 0 where there is no meter.
  double joules() const;
  // Of the multiprocessors, MHz.
  unsigned clock() const;

 private:
  void* library_ = nullptr;
  void* device_ = nullptr;
  int (*energy_)(void*, unsigned long long*) = nullptr;
  int (*clock_)(void*, int, unsigned*) = nullptr;
};

}  // namespace matvlm::bench
