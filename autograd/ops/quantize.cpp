// Checks and dispatch of the conversion to fp8.
#include "autograd/ops/quantize.h"

#include "autograd/ops/quantize_cpu.h"
#include "core/dispatch.h"

namespace matvlm {

Fp8Matrix quantize_rows(Context& ctx, const Tensor& x, const Tensor& factor) {
  check(x.defined() && x.cols() > 0, "[quantize] found ", x.defined() ? "no columns" : "no tensor",
        ", expected a matrix");
  if (factor.defined()) {
    check_shape("quantize", "factor", factor, {x.cols()});
    check_dtype("quantize", "factor", factor, DType::f32);
  }
  Fp8Matrix out;
  out.values = Tensor::empty(ctx, {x.rows(), x.cols()}, DType::u8);
  out.scale = Tensor::empty(ctx, {x.rows()}, DType::f32);
  if (x.rows() == 0) return out;
  dispatch_float("quantize", x.dtype(), [&](auto type) {
    using T = decltype(type);
    const QuantizeArgs<T> args{.rows = x.rows(),
                               .cols = x.cols(),
                               .x = x.data<T>(),
                               .x_stride = x.row_stride(),
                               .factor = factor.defined() ? factor.data<float>() : nullptr,
                               .values = out.values.data<uint8_t>(),
                               .scale = out.scale.data<float>()};
    dispatch_device(
        ctx, [&] { quantize_cuda<T>(ctx, args); }, [&] { quantize_cpu(args); });
  });
  return out;
}

const Fp8Matrix& quantized(Context& ctx, const Var& x) {
  Fp8Matrix& slot = x.fp8();
  if (!slot.defined()) slot = quantize_rows(ctx, x.value());
  return slot;
}

Tensor transpose_bytes(Context& ctx, const Tensor& x) {
  check_dtype("transpose", "x", x, DType::u8);
  check(x.rank() == 2 && x.contiguous() && x.dim(0) % 4 == 0 && x.dim(1) % 4 == 0, "[transpose] found ",
        shape_string(x.shape()), ", expected a contiguous matrix whose sizes are multiples of 4");
  Tensor y = Tensor::empty(ctx, {x.dim(1), x.dim(0)}, DType::u8);
  if (x.numel() == 0) return y;
  dispatch_device(
      ctx, [&] { transpose_bytes_cuda(ctx, x.dim(0), x.dim(1), x.data<uint8_t>(), y.data<uint8_t>()); },
      [&] { transpose_bytes_cpu(x.dim(0), x.dim(1), x.data<uint8_t>(), y.data<uint8_t>()); });
  return y;
}

}  // namespace matvlm
