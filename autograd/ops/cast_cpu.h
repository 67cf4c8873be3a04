// Conversion between float and bf16 on the CPU; see cast.h.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace matvlm {

template <class From, class To>
void cast_cpu(int64_t n, const From* src, To* dst) {
#pragma omp parallel for if (n > 65536)
  for (int64_t i = 0; i < n; ++i) dst[i] = static_cast<To>(static_cast<float>(src[i]));
}

}  // namespace matvlm
