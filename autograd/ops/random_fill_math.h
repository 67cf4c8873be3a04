// The value at one index, the same on every device; see random_fill.h.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/dtype.h"
#include "core/rng.h"

namespace matvlm {

// Rounded once to double and once to float on every device: 2u - 1 is exact, so a compiler may fuse it or not.
MATVLM_HOST_DEVICE inline float random_value(double center, double bound, const Rng& rng, int64_t i) {
  const double u = rng.uniform(static_cast<uint64_t>(i));
  return static_cast<float>(fma(bound, 2.0 * u - 1.0, center));
}

}  // namespace matvlm
