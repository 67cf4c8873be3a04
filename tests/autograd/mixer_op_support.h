// What the tests of the mixer's ops (conv1d, ssd, gated_rms_norm) share: packed rows, inputs that op and oracle both
// see exactly, inputs as column views of one fused tensor, comparison by dtype.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "autograd/graph.h"
#include "autograd/seqlens.h"
#include "tests/support/op_check.h"

namespace matvlm::testing {

inline std::vector<int64_t> boundaries(const std::vector<int64_t>& lengths) {
  std::vector<int64_t> cu = {0};
  for (const int64_t n : lengths) cu.push_back(cu.back() + n);
  return cu;
}

// Normal values that `dtype` holds exactly.
inline std::vector<double> exact_values(const std::string& name, int64_t n, DType dtype, double scale = 1.0) {
  const std::vector<double> values = random_values(name, n, scale);
  if (dtype == DType::bf16) return round_bf16(values);
  return convert<double>(convert<float>(values));
}

inline Tensor tensor_of(Context& ctx, const std::vector<double>& values, Shape shape, DType dtype) {
  return Tensor::from_floats(ctx, convert<float>(values), std::move(shape), dtype);
}

// Directional derivative of a real loss by complex step against <gradient, direction>. Both are sums of the same terms
// in double, so they agree to rounding relative to the sum of the terms' magnitudes.
inline void expect_complex_step(
    const std::string& what, const std::function<std::complex<double>(const std::vector<std::complex<double>>&)>& loss,
    const std::vector<double>& x, const std::vector<double>& gradient) {
  ASSERT_EQ(x.size(), gradient.size()) << what;
  const std::vector<double> direction = random_values("direction of " + what, static_cast<int64_t>(x.size()));
  double analytic = 0;
  double magnitude = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    analytic += gradient[i] * direction[i];
    magnitude += std::abs(gradient[i] * direction[i]);
  }
  EXPECT_LE(std::abs(complex_step(loss, x, direction) - analytic), 1e-12 * magnitude) << what;
}

// float32: relative error in the norm. bf16: the 2x rule with `tolerance` as the term for float32 arithmetic.
inline void expect_close(const std::vector<float>& found, const std::vector<double>& exact, DType dtype,
                         double tolerance, const std::string& what) {
  ASSERT_EQ(found.size(), exact.size()) << what;
  if (dtype == DType::bf16) {
    expect_within_rounding(found, exact, dtype, what, tolerance);
  } else {
    EXPECT_LE(relative_error(found, exact), tolerance) << what;
  }
}

// How the inputs lie in memory; the kernels take 16 bytes at a time where rows are aligned and single elements
// elsewhere.
enum class Rows { apart, unaligned_views, aligned_views };
inline constexpr Rows kAllRows[] = {Rows::apart, Rows::unaligned_views, Rows::aligned_views};
inline const char* name_of(Rows rows) {
  return rows == Rows::apart ? "apart" : (rows == Rows::aligned_views ? "aligned views" : "unaligned views");
}

// Inputs of an op: column ranges of one tensor behind `unused` columns (three, so that nothing is aligned; a multiple
// of 8 leaves it to the widths), or one tensor each.
class OpInputs {
 public:
  OpInputs(Graph& g, const std::vector<std::vector<double>>& parts, int64_t tokens, DType dtype, bool fused,
           int64_t unused = 3) {
    Context& ctx = g.ctx();
    std::vector<int64_t> widths;
    int64_t total = unused;
    for (const auto& part : parts) {
      widths.push_back(static_cast<int64_t>(part.size()) / tokens);
      total += widths.back();
    }
    if (fused) fused_ = g.input(Tensor::zeros(ctx, {tokens, total}, dtype));
    int64_t begin = unused;
    for (size_t i = 0; i < parts.size(); ++i) {
      const Tensor values = tensor_of(ctx, parts[i], {tokens, widths[i]}, dtype);
      const int64_t end = begin + widths[i];
      if (fused) {
        fused_.value().slice_cols(begin, end).copy_from(ctx, values);
        vars_.push_back(g.slice_cols(fused_, begin, end));
      } else {
        vars_.push_back(g.input(values));
      }
      ranges_.emplace_back(begin, end);
      begin = end;
    }
  }
  OpInputs(Graph& g, const std::vector<std::vector<double>>& parts, int64_t tokens, DType dtype, Rows rows)
      : OpInputs(g, parts, tokens, dtype, rows != Rows::apart, rows == Rows::aligned_views ? 8 : 3) {}
  const Var& operator[](size_t i) const { return vars_[i]; }
  std::vector<float> grad(Context& ctx, size_t i) const {
    if (!fused_.defined()) return vars_[i].grad().to_floats(ctx);
    return fused_.grad().slice_cols(ranges_[i].first, ranges_[i].second).to_floats(ctx);
  }

 private:
  Var fused_;
  std::vector<Var> vars_;
  std::vector<std::pair<int64_t, int64_t>> ranges_;
};

// Trained weights whose gradients already hold kHeld, so that a gradient that overwrites shows.
class OpWeights {
 public:
  static constexpr float kHeld = 0.5F;
  Parameter* declare(const std::string& name, Shape shape, bool keep_float32 = false) {
    parameters_.push_back(store_.declare(name, std::move(shape), keep_float32));
    return parameters_.back();
  }
  void fill(Context& ctx, DType dtype, const std::vector<std::vector<double>>& values) {
    store_.allocate(ctx, dtype);
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const Parameter& p = *parameters_[i];
      p.value.copy_from(ctx, tensor_of(ctx, values[i], p.shape, p.value.dtype()));
      p.grad.copy_from(ctx,
                       tensor_of(ctx, std::vector<double>(static_cast<size_t>(p.numel), kHeld), p.shape, DType::f32));
    }
  }
  Weight operator[](size_t i) const { return {parameters_[i]->value, parameters_[i]}; }
  // What was added to the gradient.
  std::vector<float> grad(Context& ctx, size_t i) const {
    std::vector<float> values = parameters_[i]->grad.to_floats(ctx);
    for (float& v : values) v -= kHeld;
    return values;
  }

 private:
  ParameterStore store_;
  std::vector<Parameter*> parameters_;
};

}  // namespace matvlm::testing
