// See random_fill.h.
#pragma once

#include <cstdint>

#include "autograd/ops/random_fill_math.h"

namespace matvlm {

template <class T>
void fill_random_cpu(int64_t n, double center, double bound, const Rng& rng, T* dst) {
#pragma omp parallel for if (n > 65536)
  for (int64_t i = 0; i < n; ++i) dst[i] = static_cast<T>(random_value(center, bound, rng, i));
}

}  // namespace matvlm
