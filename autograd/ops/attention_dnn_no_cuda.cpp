// Stands in for attention_dnn_cuda.cpp where the build has no CUDA.
#include "autograd/ops/attention_dnn.h"

namespace matvlm {

class DnnAttention {};

std::shared_ptr<DnnAttention> make_dnn_attention(Context&, bool) {
  fail("[attention, back end cudnn] this build has no CUDA and cuDNN, expected native");
}
void attention_forward_dnn(Context&, DnnAttention&, const Seqlens&, const AttentionForwardArgs<bf16, float>&) {
  fail("[attention, back end cudnn] this build has no CUDA and cuDNN, expected native");
}
void attention_backward_dnn(Context&, DnnAttention&, const Seqlens&, const AttentionBackwardArgs<bf16, float>&) {
  fail("[attention, back end cudnn] this build has no CUDA and cuDNN, expected native");
}

}  // namespace matvlm
