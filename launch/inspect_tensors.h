// What `matvlm inspect` says about tensors: a list of one checkpoint, or the differences of two.
#pragma once

#include <ostream>

#include "core/tensor_source.h"

namespace matvlm {

// A line for each tensor (name, type, shape; with `stats` smallest, largest, mean and standard deviation of the finite
// values, and the number of NaN and infinite ones), the metadata, and totals.
void print_tensors(std::ostream& out, const TensorSource& source, bool stats);

// A line for each tensor that only one of them has, that has another shape, or other values (largest absolute
// difference, largest difference relative to the larger magnitude, elements that differ), and totals. Tensors of
// another type but the same values count as equal, and are said. Returns whether names, shapes and values are the same.
bool compare_tensors(std::ostream& out, const TensorSource& a, const TensorSource& b);

}  // namespace matvlm
