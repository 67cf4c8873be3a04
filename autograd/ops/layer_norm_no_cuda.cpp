// Stands in for layer_norm.cu where the build has no CUDA.
#include "autograd/ops/layer_norm.h"

namespace matvlm {

template <class T>
void layer_norm_forward_cuda(Context&, const LayerNormForward<T, float>&) {
  fail("[layer_norm] this build has no CUDA");
}
template <class T>
void layer_norm_backward_cuda(Context&, const LayerNormBackward<T, float>&) {
  fail("[layer_norm] this build has no CUDA");
}
template void layer_norm_forward_cuda<float>(Context&, const LayerNormForward<float, float>&);
template void layer_norm_forward_cuda<bf16>(Context&, const LayerNormForward<bf16, float>&);
template void layer_norm_backward_cuda<float>(Context&, const LayerNormBackward<float, float>&);
template void layer_norm_backward_cuda<bf16>(Context&, const LayerNormBackward<bf16, float>&);

}  // namespace matvlm
