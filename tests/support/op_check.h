// Tools of the op tests: reproducible values, buffers with guard bands that start as NaN, error norms, complex-step
// derivatives. Device access for the Cuda suites.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "core/context.h"
#include "core/rng.h"
#include "core/scalar.h"
#include "core/tensor.h"

namespace matvlm::testing {

// Standard normal values scaled by `scale`; the same for the same name, n and seed.
inline std::vector<double> random_values(const std::string& name, int64_t n, double scale = 1.0, uint64_t seed = 7) {
  const Rng rng{seed, stream_of(name)};
  std::vector<double> out(static_cast<size_t>(n));
  for (size_t i = 0; i < out.size(); ++i) out[i] = scale * rng.normal(i);
  return out;
}

template <class To, class From>
std::vector<To> convert(const std::vector<From>& in) {
  std::vector<To> out(in.size());
  for (size_t i = 0; i < in.size(); ++i) out[i] = static_cast<To>(in[i]);
  return out;
}

// Rounds to bf16 and back: the inputs that a bf16 kernel sees, so that the oracle sees the same ones.
inline std::vector<double> round_bf16(const std::vector<double>& in) {
  std::vector<double> out(in.size());
  for (size_t i = 0; i < in.size(); ++i) {
    out[i] = static_cast<double>(static_cast<float>(bf16(static_cast<float>(in[i]))));
  }
  return out;
}

// n values between two guard bands. Everything starts as NaN; check() fails the test when a guard was written or a
// value was not.
template <class T>
class Guarded {
 public:
  explicit Guarded(int64_t n) : n_(n), storage_(static_cast<size_t>(n + 2 * kGuard), nan()) {}
  T* data() { return storage_.data() + kGuard; }
  std::vector<T> values() const { return std::vector<T>(storage_.begin() + kGuard, storage_.begin() + kGuard + n_); }
  void check(const std::string& what) const {
    for (int64_t i = 0; i < kGuard; ++i) {
      ASSERT_TRUE(is_nan(storage_[static_cast<size_t>(i)])) << what << ": written before the start";
      ASSERT_TRUE(is_nan(storage_[static_cast<size_t>(kGuard + n_ + i)])) << what << ": written past the end";
    }
    for (int64_t i = 0; i < n_; ++i) {
      ASSERT_FALSE(is_nan(storage_[static_cast<size_t>(kGuard + i)])) << what << ": element " << i << " is NaN";
    }
  }

 private:
  static constexpr int64_t kGuard = 64;
  static T nan() { return T(std::numeric_limits<double>::quiet_NaN()); }
  static bool is_nan(const T& x) { return std::isnan(static_cast<double>(real_part(x))); }
  int64_t n_;
  std::vector<T> storage_;
};

// |a - b| / |b| in the Euclidean norm; NaN in a gives NaN, which no comparison passes. 0/0 is 0.
template <class A, class B>
double relative_error(const std::vector<A>& a, const std::vector<B>& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  if (difference == 0) return 0;
  return std::sqrt(difference / (norm > 0 ? norm : 1));
}

// Flash-attention's rule: a low-precision result may be at most twice as far from the double oracle as the oracle's own
// rounding to that precision is, plus `ulp_term` (relative). `exact`: oracle in double.
template <class A>
void expect_within_rounding(const std::vector<A>& found, const std::vector<double>& exact, DType dtype,
                            const std::string& what, double ulp_term) {
  std::vector<double> rounded(exact.size());
  for (size_t i = 0; i < exact.size(); ++i) {
    rounded[i] = dtype == DType::bf16 ? static_cast<double>(static_cast<float>(bf16(static_cast<float>(exact[i]))))
                                      : static_cast<double>(static_cast<float>(exact[i]));
  }
  std::vector<double> values(found.size());
  for (size_t i = 0; i < found.size(); ++i) values[i] = static_cast<double>(static_cast<float>(found[i]));
  const double error = relative_error(values, exact);
  const double bound = 2 * relative_error(rounded, exact) + ulp_term;
  EXPECT_LE(error, bound) << what;
}

// Derivative of f at x in direction d by complex step: Im f(x + i h d) / h, exact to rounding for any tiny h.
inline double complex_step(const std::function<std::complex<double>(const std::vector<std::complex<double>>&)>& f,
                           const std::vector<double>& x, const std::vector<double>& d) {
  constexpr double kStep = 1e-30;
  std::vector<std::complex<double>> z(x.size());
  for (size_t i = 0; i < x.size(); ++i) z[i] = {x[i], kStep * d[i]};
  return f(z).imag() / kStep;
}

// The contexts that tests share; one per process. The CUDA one fails the test where no GPU is there: Cuda suites are
// only run on machines that have one.
inline Context& cpu() {
  static const std::unique_ptr<Context> ctx = make_cpu_context(0);
  return *ctx;
}
inline std::unique_ptr<Context> new_cuda() { return make_cuda_context(0); }

}  // namespace matvlm::testing
