// A frozen matrix in fp8, in place of its values in compute dtype.
#pragma once

#include "core/fp8.h"
#include "core/tensor.h"

namespace matvlm {

class Fp8Weight {
 public:
  // w [N, K], f32 or bf16, sizes multiples of kFp8Multiple; not needed afterwards.
  Fp8Weight(Context& ctx, const Tensor& w);
  // Rows [begin, end) of another, whose memory it shares.
  Fp8Weight(const Fp8Weight& whole, int64_t begin, int64_t end);

  const Shape& shape() const { return rows_.values.shape(); }
  int64_t numel() const { return rows_.values.numel(); }
  // [N, K], for y = x W^T.
  const Fp8Matrix& rows() const { return rows_; }
  // The same stored numbers as [K, N], for dx = dy W, made at the first call: weights that no gradient passes have no
  // second copy. Its scales are 1; those of W's rows belong to the columns of dy, as quantize_rows' factor. So the
  // gradient is that of the very matrix that forward multiplies by.
  const Fp8Matrix& columns(Context& ctx) const;

 private:
  Fp8Matrix rows_;
  mutable Fp8Matrix columns_;
};

}  // namespace matvlm
