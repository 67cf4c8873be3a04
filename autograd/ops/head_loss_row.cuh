// What the two row kernels of head_loss share: the softmax of a part of a row, and one element's loss and gradient.
#pragma once

#include "autograd/ops/head_loss.h"
#include "autograd/ops/head_loss_math.h"

namespace matvlm {

// Maximum of a part of a row (-infinity of none), its lowest index, and the sums of exp((x - max) / tau) for tau = 1
// and the temperature.
struct Softmax {
  float max;
  int32_t index;
  float sum;
  float sum_tau;
};

// exp(from - to) where to >= from; both may be -infinity (a thread without elements).
__device__ inline float rescale(float from, float to, float inverse) {
  return from == to ? 1.0F : expf((from - to) * inverse);
}

// The two distributions of a row at the temperature, element by element. Subtractions are not contracted into
// multiply-adds: equal logits must give exactly 0.
struct Pair {
  float max_s, max_t;
  float log_sum_s, log_sum_t;
  float shift;  // log_sum_s - log_sum_t
  float inverse;

  __device__ Pair(const Softmax& s, const Softmax& t, float inv)
      : max_s(s.max), max_t(t.max), log_sum_s(logf(s.sum_tau)), log_sum_t(logf(t.sum_tau)), inverse(inv) {
    shift = __fsub_rn(log_sum_s, log_sum_t);
  }
  __device__ float q(float s) const { return expf(__fsub_rn(__fmul_rn(s - max_s, inverse), log_sum_s)); }
  __device__ float p(float t) const { return expf(__fsub_rn(__fmul_rn(t - max_t, inverse), log_sum_t)); }
  __device__ float d(float s, float t) const { return __fsub_rn(s - max_s, t - max_t) * inverse - shift; }
};

// One element's share of the row's loss, before tau^2 or the square root.
template <LogitKind kKind>
__device__ inline float loss_element(const Pair& row, float s, float t) {
  if constexpr (kKind == LogitKind::kl) return kl_element(row.p(t), row.q(s), row.d(s, t));
  if constexpr (kKind == LogitKind::reverse_kl) return kl_element(row.q(s), row.p(t), -row.d(s, t));
  if constexpr (kKind == LogitKind::jsd) return jsd_element(row.p(t), row.q(s), row.d(s, t));
  return (s - t) * (s - t);
}

// Gradient of one element; `mean` is the expectation that the row's normalisation subtracts.
template <LogitKind kKind>
__device__ inline float grad_element(const Pair& row, float s, float t, float c, float mean) {
  if constexpr (kKind == LogitKind::kl) return c * __fsub_rn(row.q(s), row.p(t));
  if constexpr (kKind == LogitKind::reverse_kl) return c * row.q(s) * __fsub_rn(row.d(s, t), mean);
  if constexpr (kKind == LogitKind::jsd) return 0.5F * c * row.q(s) * __fsub_rn(log_over_mean(row.d(s, t)), mean);
  return c * __fsub_rn(s, t);
}

template <LogitKind kKind>
constexpr bool kIsDistribution = kKind == LogitKind::kl || kKind == LogitKind::reverse_kl || kKind == LogitKind::jsd;

// head_loss_cluster.cu: head_rows_cuda on sm_90 with a cluster of blocks a row, which reads the logits once. False,
// and nothing launched, where the device or the vocabulary is not for it.
template <class G>
bool head_rows_cluster(Context& ctx, const HeadRows<float, G>& a);

// head_loss_kl.cu: the same for kl alone, in half of the instructions. False where label losses have a gradient (or
// another temperature) or the vocabulary is larger than it takes; called with what head_rows_cluster takes.
template <class G>
bool head_rows_kl(Context& ctx, const HeadRows<float, G>& a);

}  // namespace matvlm
