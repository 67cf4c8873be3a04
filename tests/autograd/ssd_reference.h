// The double oracle of an SSD problem and the bounds that results of a device op are held to.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "tests/autograd/ssd_problem.h"

namespace matvlm::testing {

// A weight's gradient is a sum over tokens with cancellation, so its error is measured against the tokens' shares.
// Both are norms over the heads.
struct SsdMagnitude {
  double total = 0;    // of the sums of the shares' magnitudes
  double blocked = 0;  // the same sums over blocks as long as the head's memory, Euclidean norm over the blocks: an
                       // operand that was rounded reaches that far, so the errors of one block may all have one sign;
                       // those of different blocks are independent
};

struct SsdReference {
  std::vector<double> y, final_state;   // [T, H, P], [B, H, P, N]
  SsdValues<double> grads;              // initial: [B, H, P, N]
  std::array<SsdMagnitude, 3> weights;  // a_log, d, dt_bias
};

// The problem with x repeated for each head, so that the oracle's dx is that of each head.
inline SsdProblem with_x_per_head(const SsdProblem& p) {
  SsdProblem out = p;
  const SsdShape& s = p.c.shape;
  out.c.shape.x_groups = s.heads;
  out.in[kX].resize(static_cast<size_t>(p.tokens() * s.heads * s.head_dim));
  for (int64_t row = 0; row < p.tokens() * s.heads; ++row) {
    const int64_t group = row % s.heads / (s.heads / s.x_groups);
    const auto from = p.in[kX].begin() + (row / s.heads * s.x_groups + group) * s.head_dim;
    std::copy_n(from, s.head_dim, out.in[kX].begin() + row * s.head_dim);
  }
  return out;
}

// A token's shares of the weight gradients of one head. With dx of the head alone and the exponent dt A:
// x . (dx - D dy) = dt x . dS B is what ddt takes from the input, and the rest of ddt comes from the exponent.
inline std::array<double, 3> token_shares(const SsdProblem& p, const SsdValues<double>& grads, int64_t row, double dt,
                                          double sigmoid) {
  const SsdShape& s = p.c.shape;
  const double d = p.in[kD][static_cast<size_t>(row % s.heads)];
  double input = 0;
  double skip = 0;
  for (int64_t i = row * s.head_dim; i < (row + 1) * s.head_dim; ++i) {
    const auto k = static_cast<size_t>(i);
    input += p.in[kX][k] * (grads[kX][k] - d * p.dy[k]);
    skip += p.in[kX][k] * p.dy[k];
  }
  const double ddt = grads[kDt][static_cast<size_t>(row)];
  return {sigmoid > 0 ? dt * ddt / sigmoid - input : 0.0, skip, ddt};
}

inline std::array<SsdMagnitude, 3> weight_magnitudes(const SsdProblem& p, const SsdValues<double>& grads) {
  const SsdShape& s = p.c.shape;
  const int64_t tokens = p.tokens();
  constexpr int64_t kShortest = 256;  // tokens of a block: no shorter than the chunks that kernels work on
  std::array<SsdMagnitude, 3> out;
  for (int64_t h = 0; h < s.heads && tokens > 0; ++h) {
    std::vector<std::array<double, 3>> shares;
    double elapsed = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t row = t * s.heads + h;
      const double raw = p.in[kDt][static_cast<size_t>(row)] + p.in[kDtBias][static_cast<size_t>(h)];
      elapsed += scalar_softplus(raw);
      shares.push_back(token_shares(p, grads, row, scalar_softplus(raw), scalar_sigmoid(raw)));
    }
    const double forgotten = std::exp(p.in[kALog][static_cast<size_t>(h)]) * elapsed;  // exponents of the whole row
    const double memory = static_cast<double>(tokens) / std::max(forgotten, 1.0);
    const int64_t block = std::max(kShortest, static_cast<int64_t>(memory));
    for (size_t m = 0; m < 3; ++m) {
      double total = 0;
      double blocked = 0;
      for (int64_t first = 0; first < tokens; first += block) {
        double sum = 0;
        for (int64_t t = first; t < std::min(first + block, tokens); ++t) {
          sum += std::abs(shares[static_cast<size_t>(t)][m]);
        }
        total += sum;
        blocked += sum * sum;
      }
      out[m].total = std::hypot(out[m].total, total);
      out[m].blocked = std::hypot(out[m].blocked, std::sqrt(blocked));
    }
  }
  return out;
}

inline SsdReference ssd_reference(const SsdProblem& problem) {
  const SsdProblem p = with_x_per_head(problem);
  SsdForward<double> forward = host_forward(p, p.in);
  SsdReference out{std::move(forward.y), std::move(forward.final_state), host_backward(p, p.in, p.dy, p.dfinal), {}};
  out.weights = weight_magnitudes(p, out.grads);
  const SsdShape& s = problem.c.shape;
  std::vector<double> dx(problem.in[kX].size(), 0.0);
  for (size_t i = 0; i < out.grads[kX].size(); ++i) {
    const int64_t row = static_cast<int64_t>(i) / s.head_dim;
    const int64_t group = row % s.heads / (s.heads / s.x_groups);
    dx[static_cast<size_t>((row / s.heads * s.x_groups + group) * s.head_dim + static_cast<int64_t>(i) % s.head_dim)] +=
        out.grads[kX][i];
  }
  out.grads[kX] = std::move(dx);
  return out;
}

// What a device op returns, in the order of the reference. final_state: empty when it was not asked for.
struct SsdResult {
  std::vector<float> y, final_state;
  SsdValues<float> grads;
  bool operator==(const SsdResult&) const = default;
};

// What the gradients were added to (zero or empty: nothing); weights always are.
using SsdHeld = SsdValues<double>;

constexpr double kFloatUnit = 1.0 / (1 << 24);  // half an ulp of float32, relative
constexpr double kBf16Unit = 1.0 / (1 << 8);

// What float32 arithmetic may cost, relative in the norm. A state is a sum over up to `longest` tokens, each of which
// rounds three times (decay, input, sum), and a dot with it is one over P or N terms; the roundings are independent, so
// the error grows with the root of their number. A gradient has it twice, from the state and from the state's gradient.
inline double float_term(const SsdProblem& p) {
  const SsdShape& s = p.c.shape;
  return 2 * kFloatUnit *
         (std::sqrt(3.0 * static_cast<double>(p.longest())) + std::sqrt(static_cast<double>(s.head_dim + s.state)));
}

// The 2x rule measures against the rounding errors of the oracle's own values. Of few values those are a matter of
// chance (none at all where a value happens to be representable): the worst case divided by the root of the count.
inline double count_term(size_t n, DType dtype) {
  return 2 * (dtype == DType::bf16 ? kBf16Unit : kFloatUnit) / std::sqrt(std::max(1.0, static_cast<double>(n)));
}

inline void expect_tensor(const SsdProblem& p, const std::vector<float>& found, std::vector<double> exact,
                          const std::vector<double>& held, DType dtype, const std::string& what) {
  ASSERT_EQ(found.size(), exact.size()) << what;
  for (size_t i = 0; i < held.size(); ++i) exact[i] += held[i];
  expect_within_rounding(found, exact, dtype, what, float_term(p) + count_term(exact.size(), dtype));
}

// Gradient of a weight: float32, and of bf16 operands twice what one more rounding of them gives. That of D is a sum of
// products of inputs, which are exact: no such rounding.
inline void expect_weight(const SsdProblem& p, const std::vector<float>& found, std::vector<double> exact,
                          const std::vector<double>& held, const SsdMagnitude& magnitude, bool rounded,
                          const std::string& what) {
  ASSERT_EQ(found.size(), exact.size()) << what;
  for (size_t i = 0; i < held.size(); ++i) exact[i] += held[i];
  double norm = 0;
  for (const double v : exact) norm = std::hypot(norm, v);
  const double error = float_term(p) * magnitude.total + (rounded ? 2 * kBf16Unit * magnitude.blocked : 0.0);
  const double term = norm > 0 ? error / norm : error;
  expect_within_rounding(found, exact, DType::f32, what, term + count_term(exact.size(), DType::f32));
}

// Every output against the oracle. States are float32 but made of operands in `dtype`: the rule for that.
inline void expect_matches(const SsdProblem& p, DType dtype, const SsdResult& found, const SsdReference& exact,
                           const SsdHeld& held, const std::string& where) {
  expect_tensor(p, found.y, exact.y, {}, dtype, where + ": y");
  if (!found.final_state.empty()) {
    expect_tensor(p, found.final_state, exact.final_state, {}, dtype, where + ": final state");
  }
  for (size_t i = 0; i < kSsdInputs; ++i) {
    const std::string what = where + ": gradient of " + kSsdNames[i];
    if (i == kInitial && found.grads[i].empty()) continue;
    if (i < kALog || i == kInitial) {
      expect_tensor(p, found.grads[i], exact.grads[i], held[i], dtype, what);
    } else {
      expect_weight(p, found.grads[i], exact.grads[i], held[i], exact.weights[i - kALog],
                    dtype == DType::bf16 && i != kD, what);
    }
  }
}

}  // namespace matvlm::testing
