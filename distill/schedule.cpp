#include "distill/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace matvlm {
namespace {

double half_cosine(double u, double floor) {
  return floor + (1.0 - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * std::clamp(u, 0.0, 1.0)));
}

}  // namespace

double schedule_factor(const ScheduleConfig& schedule, int64_t samples, int64_t batch) {
  const double s = static_cast<double>(samples) + 0.5 * static_cast<double>(batch);
  const auto warmup = static_cast<double>(schedule.warmup);
  const auto total = static_cast<double>(schedule.total);
  if (s < warmup) return s / warmup;
  switch (schedule.kind) {
    case ScheduleKind::constant:
      return 1.0;
    case ScheduleKind::cosine:
      return total > warmup ? half_cosine((s - warmup) / (total - warmup), schedule.min_factor) : 1.0;
    case ScheduleKind::wsd: {
      const auto decay = static_cast<double>(schedule.decay);
      const double start = total - decay;
      return decay > 0 && s > start ? half_cosine((s - start) / decay, schedule.min_factor) : 1.0;
    }
  }
  return 1.0;
}

}  // namespace matvlm
