// Launchers of a build without CUDA. No tensor can be on a GPU there, so only a defect leads here.
#include "autograd/ops/conv1d.h"

namespace matvlm {

template <class E>
void conv1d_forward_cuda(Context&, const Conv1dArgs<E, float>&) {
  fail("[conv1d] this build has no CUDA");
}
template <class E>
void conv1d_backward_cuda(Context&, const Conv1dArgs<E, float>&) {
  fail("[conv1d] this build has no CUDA");
}
template void conv1d_forward_cuda(Context&, const Conv1dArgs<float, float>&);
template void conv1d_forward_cuda(Context&, const Conv1dArgs<bf16, float>&);
template void conv1d_backward_cuda(Context&, const Conv1dArgs<float, float>&);
template void conv1d_backward_cuda(Context&, const Conv1dArgs<bf16, float>&);

}  // namespace matvlm
