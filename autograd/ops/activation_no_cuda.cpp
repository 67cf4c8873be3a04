// Stands in for activation.cu where the build has no CUDA.
#include "autograd/ops/activation.h"

namespace matvlm {

template <class T>
void activation_forward_cuda(Context&, const ActivationForward<T>&) {
  fail("[activation] this build has no CUDA");
}
template <class T>
void activation_backward_cuda(Context&, const ActivationBackward<T>&) {
  fail("[activation] this build has no CUDA");
}
template <class T>
void swiglu_forward_cuda(Context&, const SwigluForward<T>&) {
  fail("[swiglu] this build has no CUDA");
}
template <class T>
void swiglu_backward_cuda(Context&, const SwigluBackward<T>&) {
  fail("[swiglu] this build has no CUDA");
}
template void activation_forward_cuda<float>(Context&, const ActivationForward<float>&);
template void activation_forward_cuda<bf16>(Context&, const ActivationForward<bf16>&);
template void activation_backward_cuda<float>(Context&, const ActivationBackward<float>&);
template void activation_backward_cuda<bf16>(Context&, const ActivationBackward<bf16>&);
template void swiglu_forward_cuda<float>(Context&, const SwigluForward<float>&);
template void swiglu_forward_cuda<bf16>(Context&, const SwigluForward<bf16>&);
template void swiglu_backward_cuda<float>(Context&, const SwigluBackward<float>&);
template void swiglu_backward_cuda<bf16>(Context&, const SwigluBackward<bf16>&);

}  // namespace matvlm
