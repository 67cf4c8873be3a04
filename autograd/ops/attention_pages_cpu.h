// Attention over pages on the CPU, for float and double: key by key, so that the result does not depend on where a page
// ends.
#pragma once

#include <omp.h>

#include "autograd/ops/attention_cpu.h"
#include "autograd/ops/attention_pages.h"

namespace matvlm {

// weights: as many elements as the sequence has keys.
template <class T>
void attention_paged_query(const AttentionForwardArgs<T, T>& a, const AttentionPages& pages, int64_t b, int64_t h,
                           int64_t query, int64_t visible, T* weights) {
  const int64_t p = a.shape.head_dim;
  const int64_t kv = h / (a.shape.heads / a.shape.kv_heads) * p;
  const T* q = a.q + query * a.q_stride + h * p;
  for (int64_t j = 0; j < visible; ++j) {
    weights[j] = T(a.shape.scale) * row_dot(q, page_row<T>(pages, pages.k_offset, a.k_stride, b, j) + kv, p);
  }
  T max;
  T sum;
  attention_softmax_row(weights, visible, visible, &max, &sum);
  T* out = a.out + query * a.out_stride + h * p;
  std::fill(out, out + p, T(0));
  for (int64_t j = 0; j < visible; ++j) {
    const T* v = page_row<T>(pages, pages.v_offset, a.v_stride, b, j) + kv;
    const T weight = weights[j];
#pragma omp simd
    for (int64_t d = 0; d < p; ++d) out[d] += weight * v[d];
  }
  const T inverse = T(1) / sum;
  for (int64_t d = 0; d < p; ++d) out[d] *= inverse;
  if (a.lse != nullptr) a.lse[h * a.tokens + query] = max + scalar_log(sum);
}

// scratch: longest_k elements a thread.
template <class T>
void attention_paged_cpu(const AttentionForwardArgs<T, T>& a, const AttentionPages& pages, T* scratch, int threads) {
  const AttentionRanges& r = a.ranges;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t item = 0; item < r.batch * a.shape.heads; ++item) {
    const int64_t b = item / a.shape.heads;
    const int64_t queries = r.q_end[b] - r.q_begin[b];
    const int64_t keys = r.k_end[b] - r.k_begin[b];
    for (int64_t i = 0; i < queries; ++i) {
      attention_paged_query(a, pages, b, item % a.shape.heads, r.q_begin[b] + i,
                            a.shape.causal ? keys - queries + i + 1 : keys,
                            scratch + omp_get_thread_num() * r.longest_k);
    }
  }
}

}  // namespace matvlm
