// Sums that the losses share: a norm per sample over its counted rows, and the weighted total. Float64, in a fixed
// order.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace matvlm {

// For sample b with rows begin[b] to begin[b + 1]: norm[b] = sqrt(sum of squares[r]) over rows with row_weight[r] != 0;
// for those rows coefficient[r] = segment_weight[b] / norm[b], and 0 for all others and where the norm is 0.
struct SegmentNorms {
  Tensor begin;           // i64 [B + 1], not decreasing
  Tensor row_weight;      // f32 [R]
  Tensor segment_weight;  // f32 [B]
  Tensor squares;         // f64 [R]
  Tensor norm;            // f64 [B], output
  Tensor coefficient;     // f32 [R], output
};
void segment_norms(Context& ctx, const SegmentNorms& a);

// term [1] = sum of weight[i] * value[i] over weights that are not 0; loss [1] = scale * term. weight f32 [n], value
// f64 [n], term f64, loss f32.
void weighted_total(Context& ctx, const Tensor& weight, const Tensor& value, double scale, const Tensor& loss,
                    const Tensor& term);

void segment_norms_cuda(Context& ctx, const SegmentNorms& a);
void weighted_total_cuda(Context& ctx, const Tensor& weight, const Tensor& value, double scale, const Tensor& loss,
                         const Tensor& term);

}  // namespace matvlm
