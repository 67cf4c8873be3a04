// AdamW on the CPU over one contiguous range, for float and double; see adamw.h.
#pragma once

#include <cstdint>

#include "autograd/ops/adamw_math.h"
#include "core/dtype.h"

namespace matvlm {

// compute: bf16 copy of the parameters or nullptr.
template <class T>
void adamw_cpu(int64_t n, const AdamWFactors<T>& factors, bool decay, T* p, const T* g, T* m, T* v, bf16* compute) {
#pragma omp parallel for simd if (n > 16384)
  for (int64_t i = 0; i < n; ++i) {
    T m_i = m[i];
    T v_i = v[i];
    p[i] = adamw_element(factors, decay, p[i], g[i], m_i, v_i);
    m[i] = m_i;
    v[i] = v_i;
  }
  if (compute == nullptr) return;
#pragma omp parallel for if (n > 16384)
  for (int64_t i = 0; i < n; ++i) compute[i] = bf16(static_cast<float>(p[i]));
}

}  // namespace matvlm
