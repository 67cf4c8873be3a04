// CPU row kernels of layer_loss, templated on the scalar: float (product), double and std::complex<double> (checks).
#pragma once

#include <cstdint>
#include <type_traits>

#include "autograd/ops/layer_loss.h"
#include "core/scalar.h"

namespace matvlm {

// Losses and dot products are kept in double at least: 1 - cos cancels.
template <class S>
using LayerLossOf = std::conditional_t<std::is_floating_point_v<S>, double, S>;

// Below this product of norms a cosine says nothing: loss 1, gradient 0.
inline constexpr double kCosineFloor = 1e-12;

// Sum over the row of f(i), a LayerLossOf<S>.
template <class S, class F>
LayerLossOf<S> layer_sum(int64_t n, const F& f) {
  LayerLossOf<S> total(0);
  if constexpr (std::is_floating_point_v<S>) {
    double part = 0;
#pragma omp simd reduction(+ : part)
    for (int64_t i = 0; i < n; ++i) part += f(i);
    total = part;
  } else {
    for (int64_t i = 0; i < n; ++i) total += f(i);
  }
  return total;
}

// l2 and mse: both are functions of the squared norm, and their gradients multiples of d.
template <class S>
LayerLossOf<S> difference_loss(const LayerRows<S>& a, const S* s, const S* t, double coefficient, S* grad) {
  using Loss = LayerLossOf<S>;
  const Loss squares = layer_sum<S>(a.width, [&](int64_t i) {
    const Loss d = Loss(s[i]) - Loss(t[i]);
    return d * d;
  });
  const bool zero = real_part(squares) == 0;
  Loss loss = squares;
  Loss factor(coefficient);
  if (a.kind == LayerKind::mse) {
    loss = squares / Loss(static_cast<double>(a.width));
    factor *= 2.0 / static_cast<double>(a.width);
  } else if (!a.segment_norm) {
    loss = zero ? Loss(0) : scalar_sqrt(squares);
    factor = zero ? Loss(0) : factor / loss;
  }
  if (grad != nullptr) {
    for (int64_t i = 0; i < a.width; ++i) grad[i] = S(factor * (Loss(s[i]) - Loss(t[i])));
  }
  return loss;
}

template <class S>
LayerLossOf<S> cosine_loss(const LayerRows<S>& a, const S* s, const S* t, double coefficient, S* grad) {
  using Loss = LayerLossOf<S>;
  const Loss ss = layer_sum<S>(a.width, [&](int64_t i) { return Loss(s[i]) * Loss(s[i]); });
  const Loss tt = layer_sum<S>(a.width, [&](int64_t i) { return Loss(t[i]) * Loss(t[i]); });
  const Loss st = layer_sum<S>(a.width, [&](int64_t i) { return Loss(s[i]) * Loss(t[i]); });
  // sqrt(ss * tt), not sqrt(ss) * sqrt(tt): exactly ss for equal rows, so that their loss is exactly 0. NaN goes on.
  const bool small = real_part(ss) * real_part(tt) <= kCosineFloor * kCosineFloor;
  const Loss norms = small ? Loss(1) : scalar_sqrt(ss * tt);
  if (grad != nullptr) {
    const Loss factor = small ? Loss(0) : Loss(coefficient) / norms;
    const Loss along = small ? Loss(0) : st / ss;
    for (int64_t i = 0; i < a.width; ++i) grad[i] = S(factor * (along * Loss(s[i]) - Loss(t[i])));
  }
  return small ? Loss(1) : Loss(1) - st / norms;
}

// loss: [T], of type LayerLossOf<S>; nullptr where only gradients are wanted.
template <class S>
void layer_rows_cpu(const LayerRows<S>& a, LayerLossOf<S>* loss) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < a.rows; ++r) {
    S* grad = a.grad == nullptr ? nullptr : a.grad + r * a.width;
    LayerLossOf<S> value(0);
    if (a.coefficient[r] == 0) {
      for (int64_t i = 0; grad != nullptr && i < a.width; ++i) grad[i] = S(0);
    } else {
      const S* s = a.student + r * a.student_stride;
      const S* t = a.teacher + r * a.teacher_stride;
      const double coefficient = a.scale * a.coefficient[r];
      value = a.kind == LayerKind::cosine ? cosine_loss(a, s, t, coefficient, grad)
                                          : difference_loss(a, s, t, coefficient, grad);
    }
    if (loss != nullptr) loss[r] = value;
  }
}

}  // namespace matvlm
