// Elementwise sums.
#pragma once

#include <vector>

#include "autograd/graph.h"

namespace matvlm {

// dst += src; same shape [R, C] (leading dimensions flattened) and dtype (f32 or bf16), any row strides.
void add_into(Context& ctx, const Tensor& src, const Tensor& dst);

// dst = the sum of terms of its shape and dtype, any row strides; float32 accumulation, in the order given.
void sum_into(Context& ctx, const std::vector<Tensor>& terms, const Tensor& dst);

// Sum of two or more terms of one shape and dtype, contiguous result; float32 accumulation, in the order given.
Var add(Graph& g, const std::vector<Var>& terms);

}  // namespace matvlm
