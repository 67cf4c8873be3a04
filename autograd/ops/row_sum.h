// Sums along a row on the CPU, in several lanes for the types that have vector instructions.
#pragma once

#include <cstdint>
#include <type_traits>

namespace matvlm {

// Sum over i < n of f(i).
template <class S, class F>
S row_sum(int64_t n, const F& f) {
  S sum(0);
  if constexpr (std::is_floating_point_v<S>) {
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += f(i);
  } else {
    for (int64_t i = 0; i < n; ++i) sum += f(i);
  }
  return sum;
}

}  // namespace matvlm
