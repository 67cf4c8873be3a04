// Layer normalisation on the GPU; the kernels are in norm.cuh.
#include "autograd/ops/layer_norm.h"
#include "autograd/ops/norm.cuh"

namespace matvlm {

template <class T>
void layer_norm_forward_cuda(Context& ctx, const LayerNormForward<T, float>& args) {
  const NormForwardArgs<T> a = {
      args.rows, args.cols,     args.x,    args.x_stride, args.w,  args.b, static_cast<float>(args.eps),
      args.y,    args.y_stride, args.mean, args.inv_std,  args.sum};
  launch_norm_forward<T, true>(ctx, a);
}

template <class T>
void layer_norm_backward_cuda(Context& ctx, const LayerNormBackward<T, float>& args) {
  NormBackwardArgs<T> a = {args.rows, args.cols,    args.dy, args.dy_stride, args.x,          args.x_stride, args.w,
                           args.mean, args.inv_std, args.dx, args.dx_stride, args.accumulate, nullptr,       nullptr};
  if (args.dw != nullptr) a.partial_w = args.partial;
  if (args.db != nullptr) a.partial_b = args.partial + reduce_chunks(args.rows) * args.cols;
  launch_norm_backward<T, true>(ctx, a, args.dw, args.db);
}

template void layer_norm_forward_cuda<float>(Context&, const LayerNormForward<float, float>&);
template void layer_norm_forward_cuda<bf16>(Context&, const LayerNormForward<bf16, float>&);
template void layer_norm_backward_cuda<float>(Context&, const LayerNormBackward<float, float>&);
template void layer_norm_backward_cuda<bf16>(Context&, const LayerNormBackward<bf16, float>&);

}  // namespace matvlm
