#include "autograd/ops/loss_sums.h"
#include "core/dispatch.h"

#include <cmath>

namespace matvlm {

namespace {

void segment_norms_cpu(const SegmentNorms& a) {
  const auto* begin = a.begin.data<int64_t>();
  const auto* row_weight = a.row_weight.data<float>();
  const auto* squares = a.squares.data<double>();
  auto* coefficient = a.coefficient.data<float>();
  for (int64_t b = 0; b < a.segment_weight.numel(); ++b) {
    double sum = 0;
    for (int64_t r = begin[b]; r < begin[b + 1]; ++r) {
      if (row_weight[r] != 0) sum += squares[r];
    }
    const double norm = std::sqrt(sum);
    a.norm.data<double>()[b] = norm;
    const float factor = norm == 0 ? 0.0F : static_cast<float>(a.segment_weight.data<float>()[b] / norm);
    for (int64_t r = begin[b]; r < begin[b + 1]; ++r) coefficient[r] = row_weight[r] == 0 ? 0.0F : factor;
  }
}

void weighted_total_cpu(const Tensor& weight, const Tensor& value, double scale, const Tensor& loss,
                        const Tensor& term) {
  const auto* w = weight.data<float>();
  const auto* x = value.data<double>();
  double sum = 0;
  for (int64_t i = 0; i < weight.numel(); ++i) {
    if (w[i] != 0) sum += w[i] * x[i];
  }
  *term.data<double>() = sum;
  *loss.data<float>() = static_cast<float>(scale * sum);
}

}  // namespace

void segment_norms(Context& ctx, const SegmentNorms& a) {
  dispatch_device(
      ctx, [&] { segment_norms_cuda(ctx, a); }, [&] { segment_norms_cpu(a); });
}

void weighted_total(Context& ctx, const Tensor& weight, const Tensor& value, double scale, const Tensor& loss,
                    const Tensor& term) {
  dispatch_device(
      ctx, [&] { weighted_total_cuda(ctx, weight, value, scale, loss, term); },
      [&] { weighted_total_cpu(weight, value, scale, loss, term); });
}

}  // namespace matvlm
