#include "autograd/fp8_weight.h"

#include <vector>

#include "autograd/ops/quantize.h"
#include "core/gemm_fp8.h"

namespace matvlm {

Fp8Weight::Fp8Weight(Context& ctx, const Tensor& w) {
  check(w.rank() == 2 && w.dim(0) % kFp8Multiple == 0 && w.dim(1) % kFp8Multiple == 0 && w.numel() > 0,
        "[fp8] weight: found ", shape_string(w.shape()), ", expected a matrix whose sizes are multiples of ",
        kFp8Multiple);
  rows_ = quantize_rows(ctx, w);
}

Fp8Weight::Fp8Weight(const Fp8Weight& whole, int64_t begin, int64_t end)
    : rows_{whole.rows_.values.slice_rows(begin, end), whole.rows_.scale.slice_rows(begin, end)} {}

const Fp8Matrix& Fp8Weight::columns(Context& ctx) const {
  if (!columns_.defined()) {
    columns_.scale = Tensor::from(ctx, std::vector<float>(static_cast<size_t>(shape()[1]), 1.0F), {shape()[1]});
    columns_.values = transpose_bytes(ctx, rows_.values);
  }
  return columns_;
}

}  // namespace matvlm
