// SSD kernels where float32 and bf16 are strained: time steps that are zero, tiny, large and huge, decay rates from -16
// to -1e-4, sequences of 65,536 tokens with memories as long as they are.
#include <gtest/gtest.h>

#include "tests/autograd/ssd_raw.h"

namespace matvlm::testing {
namespace {

// All heads of a problem forget at one rate, so that the norms that errors are measured in are theirs alone.
void set_rate(SsdProblem& p, double a) {
  const auto a_log = static_cast<double>(static_cast<float>(std::log(-a)));
  for (double& v : p.in[kALog]) v = a_log;
}

// What models have; float32 must take e^8 and e^-20 too.
std::vector<double> rates(DType dtype) {
  std::vector<double> out = {-16, -1, -0.05, -1e-4};
  if (dtype == DType::f32) out.insert(out.end(), {-std::exp(8.0), -std::exp(-20.0)});
  return out;
}

// Raw time steps (before bias and softplus) out of a set, in its order with a jump after every seven tokens. After one
// step of 1000 exponents are -16,000 a token, and what small steps add to a sum of them must not be lost in it.
std::vector<SsdProblem> extreme_problems(DType dtype) {
  const std::vector<std::pair<const char*, std::vector<double>>> sets = {
      {"all", {-1000, -80, 0, 30, 1000, -3}},        {"without large steps", {-1000, -80, 0, -3, -3}},
      {"none but tiny", {-1000, -80, -12}},          {"none but large", {30, 1000}},
      {"small after large", {1000, -3, -3, -3, -3}},
  };
  std::vector<SsdProblem> out;
  for (const double rate : rates(dtype)) {
    for (const auto& [name, steps] : sets) {
      const bool states = out.size() % 2 == 0;
      SsdProblem p({cat("steps: ", name, ", A = ", rate), {300, 65}, {3, 3, 3, 3, 80, 80}, states, false, states},
                   dtype);
      set_rate(p, rate);
      const auto heads = static_cast<size_t>(p.c.shape.heads);
      for (size_t i = 0; i < p.in[kDt].size(); ++i) {
        const size_t t = i / heads;
        p.in[kDt][i] = steps[(t + t / 7 + i % heads) % steps.size()];
      }
      for (double& v : p.in[kDtBias]) v = 0;
      out.push_back(std::move(p));
    }
  }
  return out;
}

// Shared memory of a block on the smallest GPUs that the kernels for bf16 run on (portable_shared).
constexpr int64_t kSmallest = 99 * 1024;

template <class E>
void check_extremes(Context& ctx, int64_t portable_shared = 0) {
  for (const SsdProblem& p : extreme_problems(kDType<E>)) {
    const SsdReference exact = ssd_reference(p);
    for (size_t i = 0; i < kSsdInputs; ++i) {
      for (const double v : exact.grads[i]) ASSERT_TRUE(std::isfinite(v)) << p.c.name << ": " << kSsdNames[i];
    }
    check_raw<E>(ctx, p, exact, portable_shared);
  }
}

TEST(SsdExtremes, CpuMatchesOracle) { check_extremes<float>(cpu()); }
TEST(SsdExtremesCuda, Float32MatchesOracle) { check_extremes<float>(*new_cuda()); }
TEST(SsdExtremesCuda, Bf16MatchesOracle) { check_extremes<bf16>(*new_cuda()); }
TEST(SsdExtremesCuda, Bf16PortableMatchesOracle) { check_extremes<bf16>(*new_cuda(), kSmallest); }

// Time steps around 0.01. At A = -1e-4 nothing is forgotten (the whole row forgets 6 %), at A = -16 within ten tokens.
SsdProblem long_problem(int64_t tokens, int64_t width, double rate) {
  SsdProblem p({cat("L = ", tokens, ", P = N = ", width, ", A = ", rate),
                {tokens},
                {2, 2, 2, 2, width, width},
                true,
                false,
                true},
               DType::bf16);
  set_rate(p, rate);
  for (double& v : p.in[kDtBias]) v = -4.75;
  return p;
}

// The values are exact in bf16, so one oracle serves both types.
void check_long(Context& ctx, int64_t tokens, int64_t width) {
  for (const double rate : {-16.0, -1e-4}) {
    const SsdProblem p = long_problem(tokens, width, rate);
    const SsdReference exact = ssd_reference(p);
    check_raw<float>(ctx, p, exact);
    if (!ctx.on_gpu()) continue;
    check_raw<bf16>(ctx, p, exact);
    check_raw<bf16>(ctx, p, exact, kSmallest);
  }
}

TEST(SsdExtremes, CpuLong) { check_long(cpu(), 8192, 16); }
TEST(SsdExtremesCuda, Long16) { check_long(*new_cuda(), 65536, 16); }
TEST(SsdExtremesCuda, Long80) { check_long(*new_cuda(), 65536, 80); }

}  // namespace
}  // namespace matvlm::testing
