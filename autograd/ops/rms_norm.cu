// Root-mean-square normalisation on the GPU; the kernels are in norm.cuh.
#include "autograd/ops/norm.cuh"
#include "autograd/ops/rms_norm.h"

namespace matvlm {

template <class T>
void rms_norm_forward_cuda(Context& ctx, const RmsNormForward<T, float>& args) {
  const NormForwardArgs<T> a = {
      args.rows, args.cols,     args.x,  args.x_stride, args.w,  nullptr, static_cast<float>(args.eps),
      args.y,    args.y_stride, nullptr, args.inv_rms,  args.sum};
  launch_norm_forward<T, false>(ctx, a);
}

template <class T>
void rms_norm_backward_cuda(Context& ctx, const RmsNormBackward<T, float>& args) {
  NormBackwardArgs<T> a = {args.rows, args.cols,    args.dy, args.dy_stride, args.x,          args.x_stride, args.w,
                           nullptr,   args.inv_rms, args.dx, args.dx_stride, args.accumulate, nullptr,       nullptr};
  if (args.dw != nullptr) a.partial_w = args.partial;
  launch_norm_backward<T, false>(ctx, a, args.dw, nullptr);
}

template void rms_norm_forward_cuda<float>(Context&, const RmsNormForward<float, float>&);
template void rms_norm_forward_cuda<bf16>(Context&, const RmsNormForward<bf16, float>&);
template void rms_norm_backward_cuda<float>(Context&, const RmsNormBackward<float, float>&);
template void rms_norm_backward_cuda<bf16>(Context&, const RmsNormBackward<bf16, float>&);

}  // namespace matvlm
