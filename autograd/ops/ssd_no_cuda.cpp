// Launchers of a build without CUDA. No tensor can be on a GPU there, so only a defect leads here.
#include "autograd/ops/ssd.h"

namespace matvlm {

template <class E>
void ssd_forward_cuda(Context&, const SsdArgs<E, float>&, Tensor*) {
  fail("[ssd] this build has no CUDA");
}
template <class E>
void ssd_backward_cuda(Context&, const SsdArgs<E, float>&, const Tensor&) {
  fail("[ssd] this build has no CUDA");
}
template void ssd_forward_cuda(Context&, const SsdArgs<float, float>&, Tensor*);
template void ssd_forward_cuda(Context&, const SsdArgs<bf16, float>&, Tensor*);
template void ssd_backward_cuda(Context&, const SsdArgs<float, float>&, const Tensor&);
template void ssd_backward_cuda(Context&, const SsdArgs<bf16, float>&, const Tensor&);

}  // namespace matvlm
