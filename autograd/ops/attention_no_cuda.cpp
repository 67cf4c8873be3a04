// Stands in for attention.cu and attention_backward.cu where the build has no CUDA.
#include "autograd/ops/attention.h"

namespace matvlm {

template <class T>
void attention_forward_cuda(Context&, const AttentionForwardArgs<T, float>&) {
  fail("[attention] this build has no CUDA");
}
template void attention_forward_cuda<float>(Context&, const AttentionForwardArgs<float, float>&);
template void attention_forward_cuda<bf16>(Context&, const AttentionForwardArgs<bf16, float>&);

template <class T>
void attention_backward_cuda(Context&, const AttentionBackwardArgs<T, float>&) {
  fail("[attention] this build has no CUDA");
}
template void attention_backward_cuda<float>(Context&, const AttentionBackwardArgs<float, float>&);
template void attention_backward_cuda<bf16>(Context&, const AttentionBackwardArgs<bf16, float>&);

}  // namespace matvlm
