// Stands in for embed_splice.cu where the build has no CUDA.
#include "autograd/ops/embed_splice.h"

namespace matvlm {

template <class T>
void embed_splice_forward_cuda(Context&, const EmbedSpliceForward<T>&) {
  fail("[embed_splice] this build has no CUDA");
}
template <class T>
void embed_splice_feature_grad_cuda(Context&, const EmbedSpliceFeatureGrad<T>&) {
  fail("[embed_splice] this build has no CUDA");
}
template <class T>
void embed_splice_table_grad_cuda(Context&, const EmbedSpliceTableGrad<T, float>&) {
  fail("[embed_splice] this build has no CUDA");
}
template void embed_splice_forward_cuda<float>(Context&, const EmbedSpliceForward<float>&);
template void embed_splice_forward_cuda<bf16>(Context&, const EmbedSpliceForward<bf16>&);
template void embed_splice_feature_grad_cuda<float>(Context&, const EmbedSpliceFeatureGrad<float>&);
template void embed_splice_feature_grad_cuda<bf16>(Context&, const EmbedSpliceFeatureGrad<bf16>&);
template void embed_splice_table_grad_cuda<float>(Context&, const EmbedSpliceTableGrad<float, float>&);
template void embed_splice_table_grad_cuda<bf16>(Context&, const EmbedSpliceTableGrad<bf16, float>&);

}  // namespace matvlm
