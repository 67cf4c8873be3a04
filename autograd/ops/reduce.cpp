// Checks and dispatch of the reductions.
#include "autograd/ops/reduce.h"

#include "autograd/ops/reduce_cpu.h"
#include "autograd/ops/reduce_device.h"
#include "core/dispatch.h"

namespace matvlm {

void add_column_sums(Context& ctx, const Tensor& src, const Tensor& dst) {
  check_shape("add_column_sums", "dst", dst, {src.cols()});
  check_dtype("add_column_sums", "dst", dst, DType::f32);
  if (src.numel() == 0) return;
  Tensor partial;
  if (ctx.on_gpu()) partial = Tensor::empty(ctx, {reduce_chunks(src.rows()), src.cols()}, DType::f32);
  const auto on_gpu = [&] {
    add_column_sums_cuda(ctx, src.rows(), src.cols(), src.raw(), src.row_stride(), src.dtype(), partial.data<float>(),
                         dst.data<float>());
  };
  dispatch_device(ctx, on_gpu, [&] {
    add_column_sums_cpu(src.rows(), src.cols(), src.data<float>(), src.row_stride(), dst.data<float>());
  });
}

double sum_squares(Context& ctx, const Tensor& x) { return queue_sum_squares(ctx, x).to_vector<double>(ctx)[0]; }

Tensor queue_sum_squares(Context& ctx, const Tensor& x) {
  check_dtype("sum_squares", "x", x, DType::f32);
  check(x.contiguous(), "[sum_squares] found a column range of ", shape_string(x.shape()), ", expected all of it");
  const int64_t blocks = ctx.on_gpu() ? (x.numel() + kSquaresBlock - 1) / kSquaresBlock : 0;
  const Tensor scratch = Tensor::empty(ctx, {blocks + 1}, DType::f64);
  double* sum = scratch.data<double>() + blocks;
  dispatch_device(
      ctx, [&] { sum_squares_cuda(ctx, x.numel(), x.data<float>(), scratch.data<double>(), sum); },
      [&] { *sum = sum_squares_cpu(x.numel(), x.data<float>()); });
  return scratch.slice_rows(blocks, blocks + 1);
}

}  // namespace matvlm
