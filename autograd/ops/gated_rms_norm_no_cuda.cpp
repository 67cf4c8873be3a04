// Launchers of a build without CUDA. No tensor can be on a GPU there, so only a defect leads here.
#include "autograd/ops/gated_rms_norm.h"

namespace matvlm {

template <class E>
void gated_rms_norm_forward_cuda(Context&, const GatedRmsNormArgs<E, float>&) {
  fail("[gated_rms_norm] this build has no CUDA");
}
template <class E>
void gated_rms_norm_backward_cuda(Context&, const GatedRmsNormArgs<E, float>&) {
  fail("[gated_rms_norm] this build has no CUDA");
}
template void gated_rms_norm_forward_cuda(Context&, const GatedRmsNormArgs<float, float>&);
template void gated_rms_norm_forward_cuda(Context&, const GatedRmsNormArgs<bf16, float>&);
template void gated_rms_norm_backward_cuda(Context&, const GatedRmsNormArgs<float, float>&);
template void gated_rms_norm_backward_cuda(Context&, const GatedRmsNormArgs<bf16, float>&);

}  // namespace matvlm
