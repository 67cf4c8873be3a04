// CPU row kernels of head_loss, templated on the scalar: float (product), double and std::complex<double> (checks).
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "autograd/ops/head_loss.h"
#include "autograd/ops/head_loss_math.h"

namespace matvlm {

// Floats are summed in blocks, vectorised, and the blocks in double: V is up to 51200 and more.
inline constexpr int64_t kSumBlock = 512;

// Sum of f(v) over v in [0, n). These functions and those they call hold pointers and numbers by value: through
// references the compiler would load them for every element, and not vectorise.
template <class S, class F>
LossOf<S> sum_over(int64_t n, F f) {
  LossOf<S> total(0);
  for (int64_t begin = 0; begin < n; begin += kSumBlock) {
    const int64_t end = std::min(n, begin + kSumBlock);
    if constexpr (std::is_same_v<S, float>) {
      float part = 0;
#pragma omp simd reduction(+ : part)
      for (int64_t v = begin; v < end; ++v) part += f(v);
      total += part;
    } else {
      for (int64_t v = begin; v < end; ++v) total += f(v);
    }
  }
  return total;
}

template <class S, class F>
void for_each_logit(int64_t n, F f) {
  if constexpr (std::is_same_v<S, float>) {
#pragma omp simd
    for (int64_t v = 0; v < n; ++v) f(v);
  } else {
    for (int64_t v = 0; v < n; ++v) f(v);
  }
}

// Index of the largest real part, the lowest on ties; 0 when nothing compares (NaN).
template <class S>
int64_t argmax_row(const S* x, int64_t n) {
  using Real = decltype(real_part(S{}));
  Real best = -std::numeric_limits<Real>::infinity();
  int64_t best_block = 0;
  for (int64_t begin = 0; begin < n; begin += kSumBlock) {
    const int64_t end = std::min(n, begin + kSumBlock);
    Real m = -std::numeric_limits<Real>::infinity();
    if constexpr (std::is_same_v<S, float>) {
#pragma omp simd reduction(max : m)
      for (int64_t v = begin; v < end; ++v) m = x[v] > m ? x[v] : m;
    } else {
      for (int64_t v = begin; v < end; ++v) m = real_part(x[v]) > m ? real_part(x[v]) : m;
    }
    if (m > best) {
      best = m;
      best_block = begin;
    }
  }
  const int64_t end = std::min(n, best_block + kSumBlock);
  for (int64_t v = best_block; v < end; ++v) {
    if (real_part(x[v]) == best) return v;
  }
  return 0;
}

// One row of logits with what its softmax needs: x - max is formed first, so that large logits lose nothing, and equal
// rows give equal bits.
template <class S>
struct LogitRow {
  const S* x = nullptr;
  int64_t n = 0;
  int64_t argmax = 0;
  S max = S(0);
  LossOf<S> log_sum = LossOf<S>(0);  // log sum exp((x - max) * inverse_temperature)

  LogitRow(const S* values, int64_t count) : x(values), n(count), argmax(argmax_row(values, count)) {
    max = S(real_part(x[argmax]));
  }
  LossOf<S> log_sum_exp(S inverse_temperature) const {
    const auto e = [x = x, max = max, inverse_temperature](int64_t v) {
      return row_exp((x[v] - max) * inverse_temperature);
    };
    return scalar_log(sum_over<S>(n, e));
  }
};

// The logit loss of one row; coefficient already holds weight and scale. Returns the loss, and through write(base) the
// gradient as a function of the element, where asked for.
template <class S, class Write>
LossOf<S> distribution_loss(LogitKind kind, const LogitRow<S>& s, const LogitRow<S>& t, double temperature,
                            double coefficient, bool want_grad, const Write& write) {
  const S inverse = S(1.0 / temperature);
  const LossOf<S> log_sum_s = s.log_sum_exp(inverse);
  const LossOf<S> log_sum_t = t.log_sum_exp(inverse);
  const S shift = S(log_sum_s - log_sum_t);
  const auto log_of = [inverse](const S* x, S max, S log_sum) {
    return [=](int64_t v) { return (x[v] - max) * inverse - log_sum; };
  };
  const auto log_q = log_of(s.x, s.max, S(log_sum_s));
  const auto log_p = log_of(t.x, t.max, S(log_sum_t));
  const auto q = [=](int64_t v) { return row_exp(log_q(v)); };
  const auto p = [=](int64_t v) { return row_exp(log_p(v)); };
  const auto d = [=, sx = s.x, tx = t.x, s_max = s.max, t_max = t.max](int64_t v) {
    return ((sx[v] - s_max) - (tx[v] - t_max)) * inverse - shift;
  };
  const LossOf<S> tau2(temperature * temperature);
  const S c = S(coefficient * temperature);
  LossOf<S> loss(0);
  if (kind == LogitKind::kl) {
    loss = sum_over<S>(s.n, [=](int64_t v) { return kl_element(p(v), q(v), d(v)); });
    if (want_grad) write([=](int64_t v) { return c * (q(v) - p(v)); });
  } else if (kind == LogitKind::reverse_kl) {
    loss = sum_over<S>(s.n, [=](int64_t v) { return kl_element(q(v), p(v), -d(v)); });
    const S mean = S(loss);  // sum of q (log q - log p)
    if (want_grad) write([=](int64_t v) { return c * q(v) * (d(v) - mean); });
  } else {
    loss = sum_over<S>(s.n, [=](int64_t v) { return jsd_element(p(v), q(v), d(v)); });
    if (want_grad) {
      const S mean = S(sum_over<S>(s.n, [=](int64_t v) { return q(v) * log_over_mean(d(v)); }));
      const S half = S(0.5) * c;
      write([=](int64_t v) { return half * q(v) * (log_over_mean(d(v)) - mean); });
    }
  }
  return tau2 * loss;
}

template <class S, class Write>
LossOf<S> euclidean_loss(bool segment_norm, const S* s, const S* t, int64_t n, double coefficient, bool want_grad,
                         const Write& write) {
  const LossOf<S> squares = sum_over<S>(n, [=](int64_t v) { return (s[v] - t[v]) * (s[v] - t[v]); });
  const bool zero = real_part(squares) == 0;
  const LossOf<S> norm = zero ? LossOf<S>(0) : scalar_sqrt(squares);
  if (want_grad) {
    LossOf<S> factor(coefficient);
    if (!segment_norm) factor = zero ? LossOf<S>(0) : factor / norm;
    const S c = S(factor);
    write([=](int64_t v) { return c * (s[v] - t[v]); });
  }
  return segment_norm ? squares : norm;
}

// Row r of `a`.
template <class S>
void head_row_cpu(const HeadRows<S>& a, int64_t r) {
  const LogitRow<S> s(a.student + r * a.vocab, a.vocab);
  S* grad = a.grad == nullptr ? nullptr : a.grad + r * a.vocab;
  const double logit_weight = a.kind == LogitKind::none ? 0.0 : a.logit_coefficient[r];
  const double ce_weight = a.ce_coefficient == nullptr ? 0.0 : a.ce_coefficient[r];
  const double logit_coefficient = logit_weight * a.logit_scale;
  const int64_t target = ce_weight == 0 ? 0 : a.target[r];
  const LogitRow<S> t = logit_weight == 0 ? s : LogitRow<S>(a.teacher + r * a.vocab, a.vocab);
  const bool against_argmax = logit_weight != 0 && a.kind == LogitKind::argmax_ce;

  // Cross entropies share softmax(s) at temperature 1.
  const double ce_coefficient = ce_weight * a.ce_scale;
  const double softmax_coefficient = ce_coefficient + (against_argmax ? logit_coefficient : 0.0);
  const LossOf<S> log_sum = against_argmax || ce_weight != 0 ? s.log_sum_exp(S(1)) : LossOf<S>(0);
  const auto cross_entropy = [&](int64_t k) { return log_sum - LossOf<S>(s.x[k] - s.max); };
  const LossOf<S> ce_loss = ce_weight == 0 ? LossOf<S>(0) : cross_entropy(target);

  const S c = S(softmax_coefficient);
  const S l = S(log_sum);
  const auto write = [=, x = s.x, max = s.max, n = a.vocab](auto base) {
    if (softmax_coefficient == 0) {
      for_each_logit<S>(n, [=](int64_t v) { grad[v] = base(v); });
    } else {
      for_each_logit<S>(n, [=](int64_t v) { grad[v] = base(v) + c * row_exp((x[v] - max) - l); });
    }
  };
  LossOf<S> logit_loss(0);
  if (logit_weight == 0 || against_argmax) {
    // The teacher's maximum minus itself is 0, or NaN where the teacher's logits are: that must not go unnoticed.
    if (against_argmax) logit_loss = cross_entropy(t.argmax) + LossOf<S>(t.x[t.argmax] - t.x[t.argmax]);
    if (grad != nullptr) write([](int64_t) { return S(0); });
  } else if (a.kind == LogitKind::logit_l2) {
    logit_loss = euclidean_loss(a.segment_norm, s.x, t.x, a.vocab, logit_coefficient, grad != nullptr, write);
  } else {
    logit_loss = distribution_loss(a.kind, s, t, a.temperature, logit_coefficient, grad != nullptr, write);
  }
  if (grad != nullptr) {
    if (against_argmax) grad[t.argmax] -= S(logit_coefficient);
    if (ce_weight != 0) grad[target] -= S(ce_coefficient);
  }
  a.logit_loss[r] = logit_loss;
  a.ce_loss[r] = ce_loss;
  a.agree[r] = logit_weight != 0 && s.argmax == t.argmax ? 1 : 0;
  a.correct[r] = ce_weight != 0 && s.argmax == target ? 1 : 0;
}

template <class S>
void head_rows_cpu(const HeadRows<S>& a) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < a.rows; ++r) head_row_cpu(a, r);
}

}  // namespace matvlm
