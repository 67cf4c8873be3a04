// Reductions with a fixed order of additions: the same bits for any number of threads.
#pragma once

#include "core/tensor.h"

namespace matvlm {

// dst[c] += sum over r of src[r, c]. src [..., C], f32 or bf16, may be a column view; dst f32 [C].
void add_column_sums(Context& ctx, const Tensor& src, const Tensor& dst);

// Sum of squares of all elements, in double. x f32, contiguous. Infinities and NaN propagate. Synchronises.
double sum_squares(Context& ctx, const Tensor& x);
// The same as f64 [1] on the device of x, without waiting for it.
Tensor queue_sum_squares(Context& ctx, const Tensor& x);

}  // namespace matvlm
