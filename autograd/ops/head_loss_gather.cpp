#include "autograd/ops/head_loss_gather.h"

#include "autograd/ops/head_loss.h"
#include "core/dispatch.h"

namespace matvlm {

void gather_rows(Context& ctx, const Tensor& src, const Tensor& index, const Tensor& dst) {
  const int64_t bytes = src.cols() * dtype_size(src.dtype());
  const int64_t stride = src.row_stride() * dtype_size(src.dtype());
  const auto* rows = index.data<int64_t>();
  const auto on_cpu = [&] {
    for (int64_t i = 0; i < index.numel(); ++i) {
      ctx.copy_2d(static_cast<char*>(dst.raw()) + i * bytes, bytes,
                  static_cast<const char*>(src.raw()) + rows[i] * stride, stride, bytes, 1);
    }
  };
  dispatch_device(
      ctx, [&] { gather_rows_cuda(ctx, index.numel(), bytes, rows, src.raw(), stride, dst.raw()); }, on_cpu);
}

void scatter_rows(Context& ctx, const Tensor& src, const Tensor& index, const Tensor& dst) {
  const int64_t bytes = src.cols() * dtype_size(src.dtype());
  const int64_t stride = dst.row_stride() * dtype_size(dst.dtype());
  const auto* rows = index.data<int64_t>();
  const auto on_cpu = [&] {
    for (int64_t i = 0; i < index.numel(); ++i) {
      ctx.copy_2d(static_cast<char*>(dst.raw()) + rows[i] * stride, stride,
                  static_cast<const char*>(src.raw()) + i * bytes, bytes, bytes, 1);
    }
  };
  dispatch_device(
      ctx, [&] { scatter_rows_cuda(ctx, index.numel(), bytes, rows, src.raw(), dst.raw(), stride); }, on_cpu);
}

bool same_place_in_lines(const Tensor& a, const Tensor& b) {
  constexpr uintptr_t kLine = 256;  // the widest that an algorithm may ask for
  return reinterpret_cast<uintptr_t>(a.raw()) % kLine == reinterpret_cast<uintptr_t>(b.raw()) % kLine;
}

}  // namespace matvlm
