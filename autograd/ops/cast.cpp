// Checks and dispatch of the conversion.
#include "autograd/ops/cast.h"

#include "autograd/ops/cast_cpu.h"
#include "autograd/ops/cast_device.h"
#include "core/dispatch.h"

namespace matvlm {

void cast_into(Context& ctx, const Tensor& src, const Tensor& dst) {
  check_shape("cast", "src", src, dst.shape());
  check(src.contiguous() && dst.contiguous(), "[cast] found a column range of ", shape_string(src.shape()),
        ", expected contiguous tensors");
  if (dst.numel() == 0) return;
  const auto on_cpu = [&] {
    dispatch_float("cast", src.dtype(), [&](auto from) {
      dispatch_float("cast", dst.dtype(),
                     [&](auto to) { cast_cpu(dst.numel(), src.data<decltype(from)>(), dst.data<decltype(to)>()); });
    });
  };
  dispatch_device(
      ctx, [&] { cast_cuda(ctx, dst.numel(), src.raw(), src.dtype(), dst.raw(), dst.dtype()); }, on_cpu);
}

}  // namespace matvlm
