// Token embedding with spliced features on the CPU, for any scalar; see embed_splice.h.
#pragma once

#include <algorithm>

#include "autograd/ops/embed_splice.h"

namespace matvlm {

template <class T>
void embed_splice_forward_cpu(const EmbedSpliceForward<T>& a) {
#pragma omp parallel for if (a.tokens * a.width > 32768)
  for (int64_t t = 0; t < a.tokens; ++t) {
    const int64_t s = a.source[t];
    const T* row = s >= 0 ? a.table + s * a.width : a.features + (-1 - s) * a.features_stride;
    std::copy(row, row + a.width, a.y + t * a.width);
  }
}

template <class T>
void embed_splice_feature_grad_cpu(const EmbedSpliceFeatureGrad<T>& a) {
#pragma omp parallel for if (a.features * a.width > 32768)
  for (int64_t m = 0; m < a.features; ++m) {
    T* dst = a.dfeatures + m * a.dfeatures_stride;
    const int64_t t = a.token_of[m];
    if (t < 0) {
      if (!a.accumulate) std::fill(dst, dst + a.width, T(0));
      continue;
    }
    const T* dy = a.dy + t * a.dy_stride;
    for (int64_t c = 0; c < a.width; ++c) dst[c] = a.accumulate ? dst[c] + dy[c] : dy[c];
  }
}

template <class T, class S>
void embed_splice_table_grad_cpu(const EmbedSpliceTableGrad<T, S>& a) {
#pragma omp parallel for if (a.unique * a.width > 8192)
  for (int64_t u = 0; u < a.unique; ++u) {
    S* dst = a.dtable + a.ids[u] * a.width;
    for (int64_t i = a.begin[u]; i < a.begin[u + 1]; ++i) {
      const T* dy = a.dy + a.order[i] * a.dy_stride;
      for (int64_t c = 0; c < a.width; ++c) dst[c] += static_cast<S>(dy[c]);
    }
  }
}

}  // namespace matvlm
