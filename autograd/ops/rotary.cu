// Rotary embedding on a GPU: launches, and the kernel for dims that pass through.
#include "autograd/ops/rotary.h"
#include "autograd/ops/rotary_turn.cuh"

namespace matvlm {
namespace {

using TurnPlan = rotary_turn::Plan<2, 4>;
constexpr int kRotaryThreads = 128;

// Dims R and above of every head, which pass through, where y is not x.
template <class T>
__global__ void pass_kernel(RotaryArgs<T> a) {
  const int64_t t = blockIdx.x;
  const int rest = static_cast<int>(a.head_dim - a.rotary_dims);
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(a.heads) * rest; i += kRotaryThreads) {
    const int64_t column = static_cast<int64_t>(i / rest) * a.head_dim + a.rotary_dims + i % rest;
    float value = static_cast<float>(a.x[t * a.x_stride + column]);
    T* to = a.y + t * a.y_stride + column;
    if (a.accumulate) value += static_cast<float>(*to);
    *to = static_cast<T>(value);
  }
}

}  // namespace

template <class T>
void rotary_cuda(Context& ctx, const RotaryArgs<T>& args) {
  if (args.tokens == 0) return;
  constexpr int kMaxDims = 2 * rotary_turn::kMaxPairs;
  check(args.rotary_dims <= kMaxDims, "[rotary] rotary dims on a GPU: found ", args.rotary_dims, ", expected at most ",
        kMaxDims);
  constexpr int kWide = kPackWidth<T>;
  const bool wide = args.rotary_dims / 2 % kWide == 0 && args.head_dim % kWide == 0 &&
                    rows_aligned(args.x, args.x_stride, kWide) && rows_aligned(args.y, args.y_stride, kWide);
  if (wide && args.rotary_dims > 0) {
    rotary_turn::launch<T, TurnPlan, true>(ctx, args);
  } else if (args.rotary_dims > 0) {
    rotary_turn::launch<T, TurnPlan, false>(ctx, args);
  }
  if (args.x == args.y || args.rotary_dims == args.head_dim) return;
  pass_kernel<<<static_cast<unsigned>(args.tokens), kRotaryThreads, 0, cuda_stream(ctx)>>>(args);
  MATVLM_LAUNCH_CHECK();
}
template void rotary_cuda<float>(Context&, const RotaryArgs<float>&);
template void rotary_cuda<bf16>(Context&, const RotaryArgs<bf16>&);

}  // namespace matvlm
