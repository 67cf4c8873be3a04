// Row kernels of head_loss: double against the textbook formulas and complex step, float against double, exact zeros.
#include <algorithm>
#include <cmath>

#include "autograd/ops/head_loss_cpu.h"
#include "tests/autograd/head_loss_cases.h"

namespace matvlm {
namespace {

using head_loss_cases::kCeScale;
using head_loss_cases::kind_name;
using head_loss_cases::kKinds;
using head_loss_cases::kLogitScale;
using matvlm::testing::convert;
using matvlm::testing::Guarded;
using matvlm::testing::random_values;
using matvlm::testing::relative_error;
using Complex = std::complex<double>;

// --- The formulas of method section 3 as they stand there

template <class S>
std::vector<S> log_softmax(const S* x, int64_t n, double temperature) {
  double top = -INFINITY;
  for (int64_t i = 0; i < n; ++i) top = std::max(top, real_part(x[i]));
  S sum(0);
  for (int64_t i = 0; i < n; ++i) sum += scalar_exp((x[i] - S(top)) / S(temperature));
  std::vector<S> out(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) out[static_cast<size_t>(i)] = (x[i] - S(top)) / S(temperature) - scalar_log(sum);
  return out;
}

// KL of two distributions given by their logarithms; terms without probability count 0.
template <class S>
S kl_divergence(const std::vector<S>& log_p, const std::vector<S>& log_q) {
  S sum(0);
  for (size_t i = 0; i < log_p.size(); ++i) {
    const S p = scalar_exp(log_p[i]);
    if (real_part(p) > 0) sum += p * (log_p[i] - log_q[i]);
  }
  return sum;
}

int64_t textbook_argmax(const double* x, int64_t n) { return std::max_element(x, x + n) - x; }

template <class S>
S textbook_loss(LogitKind kind, const S* s, const double* t, int64_t n, double tau) {
  std::vector<S> teacher(t, t + n);
  if (kind == LogitKind::argmax_ce) return -log_softmax(s, n, 1.0)[static_cast<size_t>(textbook_argmax(t, n))];
  if (kind == LogitKind::logit_l2) {
    S sum(0);
    for (int64_t i = 0; i < n; ++i) sum += (s[i] - t[i]) * (s[i] - t[i]);
    return scalar_sqrt(sum);
  }
  const std::vector<S> q = log_softmax(s, n, tau);
  const std::vector<S> p = log_softmax(teacher.data(), n, tau);
  if (kind == LogitKind::kl) return S(tau * tau) * kl_divergence(p, q);
  if (kind == LogitKind::reverse_kl) return S(tau * tau) * kl_divergence(q, p);
  std::vector<S> m(p.size());
  for (size_t i = 0; i < m.size(); ++i) m[i] = scalar_log((scalar_exp(p[i]) + scalar_exp(q[i])) * S(0.5));
  return S(tau * tau * 0.5) * (kl_divergence(p, m) + kl_divergence(q, m));
}

// --- Rows

template <class S>
struct RowOutcome {
  std::vector<LossOf<S>> logit_loss, ce_loss;
  std::vector<int32_t> agree, correct;
  std::vector<S> grad;
};

struct RowCase {
  LogitKind kind = LogitKind::kl;
  double tau = 1.0;
  int64_t rows = 3;
  int64_t vocab = 37;
  bool ce = true;
  bool segment_norm = false;
};

std::vector<float> row_weights(const RowCase& c) {
  std::vector<float> w;
  for (int64_t r = 0; r < c.rows; ++r) w.push_back(r % 3 == 1 ? 0.0F : 0.5F + 0.25F * static_cast<float>(r % 5));
  return w;
}
std::vector<float> row_ce_weights(const RowCase& c) {
  std::vector<float> w;
  for (int64_t r = 0; r < c.rows; ++r) w.push_back(r % 4 == 2 ? 0.0F : 1.5F - 0.25F * static_cast<float>(r % 4));
  return w;
}
std::vector<int32_t> row_targets(const RowCase& c) {
  std::vector<int32_t> t;
  for (int64_t r = 0; r < c.rows; ++r) t.push_back(static_cast<int32_t>((r * 7919 + 5) % c.vocab));
  return t;
}

template <class S>
RowOutcome<S> run_rows(const RowCase& c, const std::vector<S>& s, const std::vector<S>& t) {
  const std::vector<float> w = row_weights(c);
  const std::vector<float> ce = row_ce_weights(c);
  const std::vector<int32_t> target = row_targets(c);
  const auto n = static_cast<size_t>(c.rows);
  RowOutcome<S> out;
  out.agree.assign(n, -1);
  out.correct.assign(n, -1);
  Guarded<LossOf<S>> logit_loss(c.rows), ce_loss(c.rows);
  Guarded<S> grad(c.rows * c.vocab);
  HeadRows<S> a;
  a.rows = c.rows;
  a.vocab = c.vocab;
  a.kind = c.kind;
  a.segment_norm = c.segment_norm;
  a.temperature = c.tau;
  a.logit_scale = kLogitScale;
  a.ce_scale = kCeScale;
  a.student = s.data();
  a.teacher = t.data();
  a.logit_coefficient = w.data();
  a.ce_coefficient = c.ce ? ce.data() : nullptr;
  a.target = target.data();
  a.grad = grad.data();
  a.logit_loss = logit_loss.data();
  a.ce_loss = ce_loss.data();
  a.agree = out.agree.data();
  a.correct = out.correct.data();
  head_rows_cpu(a);
  grad.check("grad");
  logit_loss.check("logit_loss");
  ce_loss.check("ce_loss");
  out.grad = grad.values();
  out.logit_loss = logit_loss.values();
  out.ce_loss = ce_loss.values();
  return out;
}

// The scaled, weighted sum whose gradient `grad` is.
template <class S>
S textbook_total(const RowCase& c, const std::vector<S>& s, const std::vector<double>& t) {
  const std::vector<float> w = row_weights(c);
  const std::vector<float> ce = row_ce_weights(c);
  const std::vector<int32_t> target = row_targets(c);
  S total(0);
  for (int64_t r = 0; r < c.rows; ++r) {
    const auto i = static_cast<size_t>(r);
    const S* row = s.data() + r * c.vocab;
    if (w[i] != 0) {
      total += S(kLogitScale * w[i]) * textbook_loss(c.kind, row, t.data() + r * c.vocab, c.vocab, c.tau);
    }
    if (c.ce && ce[i] != 0) {
      total -= S(kCeScale * ce[i]) * log_softmax(row, c.vocab, 1.0)[static_cast<size_t>(target[i])];
    }
  }
  return total;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

TEST(HeadRows, DoubleFollowsTheFormulas) {
  for (const LogitKind kind : kKinds) {
    for (const double tau : {0.5, 1.0, 2.0}) {
      for (const bool ce : {false, true}) {
        const RowCase c{kind, tau, 9, 37, ce};
        SCOPED_TRACE(cat(kind_name(kind), " T ", tau, ce ? " with ce" : ""));
        const auto s = random_values("s", c.rows * c.vocab, 2.0);
        const auto t = random_values("t", c.rows * c.vocab, 2.0);
        const RowOutcome<double> out = run_rows(c, s, t);
        for (int64_t r = 0; r < c.rows; ++r) {
          const auto i = static_cast<size_t>(r);
          const double* row = s.data() + r * c.vocab;
          const bool counted = row_weights(c)[i] != 0;
          const double expected = counted ? textbook_loss(kind, row, t.data() + r * c.vocab, c.vocab, tau) : 0.0;
          EXPECT_NEAR(out.logit_loss[i], expected, 1e-13 * (1 + std::abs(expected)));
          EXPECT_EQ(out.agree[i],
                    counted && textbook_argmax(row, c.vocab) == textbook_argmax(t.data() + r * c.vocab, c.vocab));
          const bool labelled = ce && row_ce_weights(c)[i] != 0;
          const auto target = static_cast<size_t>(row_targets(c)[i]);
          EXPECT_NEAR(out.ce_loss[i], labelled ? -log_softmax(row, c.vocab, 1.0)[target] : 0.0, 1e-13);
          EXPECT_EQ(out.correct[i], labelled && textbook_argmax(row, c.vocab) == static_cast<int64_t>(target));
        }
        // Gradient in random directions, against the complex step of the formulas and of the templates themselves.
        for (const uint64_t seed : {1, 2, 3}) {
          const auto direction = random_values("direction", c.rows * c.vocab, 1.0, seed);
          const double expected = testing::complex_step(
              [&](const std::vector<Complex>& z) { return textbook_total(c, z, t); }, s, direction);
          EXPECT_NEAR(dot(out.grad, direction), expected, 1e-12 * (1 + std::abs(expected)));
          const double own = testing::complex_step(
              [&](const std::vector<Complex>& z) {
                const RowOutcome<Complex> o = run_rows(c, z, convert<Complex>(t));
                Complex total(0);
                for (size_t i = 0; i < o.logit_loss.size(); ++i) {
                  total += kLogitScale * row_weights(c)[i] * o.logit_loss[i];
                  if (ce) total += kCeScale * row_ce_weights(c)[i] * o.ce_loss[i];
                }
                return total;
              },
              s, direction);
          EXPECT_NEAR(dot(out.grad, direction), own, 1e-12 * (1 + std::abs(own)));
        }
      }
    }
  }
}

TEST(HeadRows, SegmentNormGivesSquaresAndMultiplesOfTheDifference) {
  RowCase c{LogitKind::logit_l2, 1.0, 5, 41, false, true};
  const auto s = random_values("s", c.rows * c.vocab);
  const auto t = random_values("t", c.rows * c.vocab);
  const RowOutcome<double> out = run_rows(c, s, t);
  for (int64_t r = 0; r < c.rows; ++r) {
    const float w = row_weights(c)[static_cast<size_t>(r)];
    double squares = 0;
    for (int64_t v = 0; v < c.vocab; ++v) {
      const auto i = static_cast<size_t>(r * c.vocab + v);
      squares += w == 0 ? 0 : (s[i] - t[i]) * (s[i] - t[i]);
      EXPECT_NEAR(out.grad[i], kLogitScale * w * (s[i] - t[i]), 1e-15);
    }
    EXPECT_NEAR(out.logit_loss[static_cast<size_t>(r)], squares, 1e-12);
  }
}

// The float functions against their plain formulas in double. Near d = 0 they are series and as good as float; beyond,
// a difference of numbers up to ten times as large.
TEST(HeadRows, FloatFunctions) {
  for (int i = -8700; i <= 0; ++i) {
    const float x = 0.01F * static_cast<float>(i) + 0.003F;
    const double exact = std::exp(static_cast<double>(x));
    EXPECT_NEAR(row_exp(x), exact, 2e-7 * exact) << x;
    const float e = row_exp(x * 0.01F);
    const double log_half = std::log((1.0 + e) / 2.0);
    EXPECT_NEAR(log_half_plus(e), log_half, 4e-7 * std::abs(log_half)) << e;
  }
  EXPECT_EQ(row_exp(0.0F), 1.0F);
  EXPECT_EQ(row_exp(-1e30F), 0.0F);
  EXPECT_EQ(log_half_plus(1.0F), 0.0F);
  for (int i = -2000; i <= 2000; ++i) {
    const float d = 0.01F * static_cast<float>(i) + 0.0037F;
    const double p = 0.125;
    const double q = p * std::exp(static_cast<double>(d));
    const double kl = p * (std::expm1(static_cast<double>(d)) - d);
    EXPECT_NEAR(kl_element(0.125F, static_cast<float>(q), d), kl, (std::abs(d) < 0.49 ? 3e-7 : 3e-6) * kl) << d;
    const double a = std::abs(d) / 2.0;
    const double jsd = (p + q) / 2 * (a * std::tanh(a) - std::log(std::cosh(a)));
    EXPECT_NEAR(jsd_element(0.125F, static_cast<float>(q), d), jsd, (a < 0.29 ? 4e-7 : 4e-6) * jsd) << d;
    const double over_mean = -std::log((1 + std::exp(-static_cast<double>(d))) / 2);
    EXPECT_NEAR(log_over_mean(d), over_mean, 3e-7 * (1 + std::abs(over_mean))) << d;
  }
}

// Float against double on the same values. `distance`: of the student from the teacher.
void compare_float_rows(const RowCase& c, double scale, double distance, double loss_bound, double grad_bound) {
  const auto base = random_values("base", c.rows * c.vocab, scale);
  const auto noise = random_values("noise", c.rows * c.vocab, distance);
  std::vector<float> s(base.size()), t(base.size());
  for (size_t i = 0; i < base.size(); ++i) {
    t[i] = static_cast<float>(base[i]);
    s[i] = static_cast<float>(base[i] + noise[i]);
  }
  const RowOutcome<float> found = run_rows(c, s, t);
  const RowOutcome<double> exact = run_rows(c, convert<double>(s), convert<double>(t));
  EXPECT_LE(relative_error(found.logit_loss, exact.logit_loss), loss_bound);
  EXPECT_LE(relative_error(found.grad, exact.grad), grad_bound);
  EXPECT_EQ(found.agree, exact.agree);
  EXPECT_EQ(found.correct, exact.correct);
  if (c.ce) {
    EXPECT_LE(relative_error(found.ce_loss, exact.ce_loss), loss_bound);
  }
}

TEST(HeadRows, FloatAgainstDouble) {
  for (const LogitKind kind : kKinds) {
    for (const double tau : {0.5, 1.0, 2.0}) {
      for (const int64_t vocab : {1, 2, 17, 384, 512, 513, 1000}) {
        SCOPED_TRACE(cat(kind_name(kind), " T ", tau, " V ", vocab));
        // Logits of size 4/T carry rounding errors of a few 1e-7 in the exponent.
        compare_float_rows({kind, tau, 7, vocab, true}, 1.5, 1.0, 2e-6, 2e-6);
      }
    }
    SCOPED_TRACE(cat(kind_name(kind), " V 51200"));
    compare_float_rows({kind, 1.0, 2, 51200, true}, 1.5, 1.0, 2e-6, 2e-6);
  }
}

// A student close to its teacher: the loss is quadratic in the distance and must not drown in rounding. The difference
// of the logits itself is exact in float, its normalisation is good to 1e-7 of about 1.
TEST(HeadRows, FloatNearTheTeacher) {
  for (const LogitKind kind : {LogitKind::kl, LogitKind::reverse_kl, LogitKind::jsd}) {
    for (const double distance : {1e-1, 1e-2, 1e-3}) {
      SCOPED_TRACE(cat(kind_name(kind), " distance ", distance));
      const double bound = 1e-6 / distance;
      compare_float_rows({kind, 1.0, 7, 1000, false}, 1.5, distance, bound, bound);
    }
  }
}

// Logits up to about 1e4, half of the vocabulary without probability: finite, and as good as the spacing of floats
// there (1e-3) allows.
TEST(HeadRows, FloatWithLargeLogits) {
  for (const LogitKind kind : kKinds) {
    SCOPED_TRACE(kind_name(kind));
    compare_float_rows({kind, 1.0, 7, 1000, true}, 3000.0, 300.0, 1e-5, 2e-3);
    compare_float_rows({kind, 0.5, 7, 1000, true}, 3000.0, 300.0, 1e-5, 2e-3);
  }
}

TEST(HeadRows, EqualLogitsGiveExactlyZero) {
  for (const LogitKind kind : {LogitKind::kl, LogitKind::reverse_kl, LogitKind::jsd, LogitKind::logit_l2}) {
    for (const double tau : {0.5, 0.7, 1.0, 2.0, 3.3}) {
      for (const double scale : {1.0, 3000.0}) {
        SCOPED_TRACE(cat(kind_name(kind), " T ", tau, " scale ", scale));
        const RowCase c{kind, tau, 7, 1003, false};
        const auto x = convert<float>(random_values("x", c.rows * c.vocab, scale));
        const RowOutcome<float> out = run_rows(c, x, x);
        EXPECT_EQ(out.logit_loss, std::vector<double>(7, 0.0));
        EXPECT_EQ(std::count(out.grad.begin(), out.grad.end(), 0.0F), c.rows * c.vocab);
      }
    }
  }
}

TEST(HeadRows, TiesTakeTheLowestIndex) {
  for (const int64_t vocab : {3, 700, 1400}) {
    std::vector<float> x(static_cast<size_t>(vocab), -2.0F);
    x[static_cast<size_t>(vocab - 1)] = 5.0F;
    x[static_cast<size_t>(vocab / 2)] = 5.0F;
    EXPECT_EQ(argmax_row(x.data(), vocab), vocab / 2);
  }
}

// A NaN on either side reaches the loss whatever its kind.
TEST(HeadRows, NanReachesTheLoss) {
  for (const LogitKind kind : kKinds) {
    for (const bool in_teacher : {false, true}) {
      SCOPED_TRACE(cat(kind_name(kind), in_teacher ? " teacher" : " student"));
      std::vector<float> good = convert<float>(random_values("x", 100));
      const std::vector<float> bad(100, NAN);
      const std::vector<float>& s = in_teacher ? good : bad;
      const std::vector<float>& t = in_teacher ? bad : good;
      const float one = 1.0F;
      const int32_t target = 0;
      double logit_loss = 0, ce_loss = 0;
      int32_t agree = 0, correct = 0;
      HeadRows<float> a;
      a.rows = 1;
      a.vocab = 100;
      a.kind = kind;
      a.student = s.data();
      a.teacher = t.data();
      a.logit_coefficient = &one;
      a.target = &target;
      a.logit_loss = &logit_loss;
      a.ce_loss = &ce_loss;
      a.agree = &agree;
      a.correct = &correct;
      head_rows_cpu(a);
      EXPECT_TRUE(std::isnan(logit_loss));
    }
  }
}

}  // namespace
}  // namespace matvlm
