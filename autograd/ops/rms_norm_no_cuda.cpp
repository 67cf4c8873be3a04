// Stands in for rms_norm.cu where the build has no CUDA.
#include "autograd/ops/rms_norm.h"

namespace matvlm {

template <class T>
void rms_norm_forward_cuda(Context&, const RmsNormForward<T, float>&) {
  fail("[rms_norm] this build has no CUDA");
}
template <class T>
void rms_norm_backward_cuda(Context&, const RmsNormBackward<T, float>&) {
  fail("[rms_norm] this build has no CUDA");
}
template void rms_norm_forward_cuda<float>(Context&, const RmsNormForward<float, float>&);
template void rms_norm_forward_cuda<bf16>(Context&, const RmsNormForward<bf16, float>&);
template void rms_norm_backward_cuda<float>(Context&, const RmsNormBackward<float, float>&);
template void rms_norm_backward_cuda<bf16>(Context&, const RmsNormBackward<bf16, float>&);

}  // namespace matvlm
