// Checks and dispatch of random values.
#include "autograd/ops/random_fill.h"

#include "autograd/ops/random_fill_cpu.h"
#include "autograd/ops/random_fill_device.h"
#include "core/dispatch.h"

namespace matvlm {

void fill_random(Context& ctx, const Tensor& dst, double center, double bound, const Rng& rng) {
  check(dst.contiguous(), "[fill_random] found a column range of ", shape_string(dst.shape()),
        ", expected a contiguous tensor");
  if (dst.numel() == 0) return;
  const auto on_cpu = [&] {
    dispatch_float("fill_random", dst.dtype(), [&](auto type) {
      using T = decltype(type);
      fill_random_cpu<T>(dst.numel(), center, bound, rng, dst.data<T>());
    });
  };
  dispatch_device(
      ctx, [&] { fill_random_cuda(ctx, dst.numel(), center, bound, rng, dst.raw(), dst.dtype()); }, on_cpu);
}

}  // namespace matvlm
