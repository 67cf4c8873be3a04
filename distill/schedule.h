// Learning rate as a function of the samples seen.
#pragma once

#include "distill/config.h"

namespace matvlm {

// Factor of the peak for an update that begins after `samples` samples and takes `batch`; evaluated at its middle, so
// that neither the first nor the last update has a rate of 0.
//   warm-up: s / warmup; wsd: 1, then over the last `decay` samples m + (1 - m) (1 + cos(pi u)) / 2, u from 0 to 1;
//   cosine: the same half cosine from the end of the warm-up to `total`; constant: 1.
double schedule_factor(const ScheduleConfig& schedule, int64_t samples, int64_t batch);

}  // namespace matvlm
