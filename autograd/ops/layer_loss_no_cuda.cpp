// Where the build has no CUDA no tensor is on a GPU, so this is never reached.
#include "autograd/ops/layer_loss.h"

namespace matvlm {

template <class S>
void layer_rows_cuda(Context&, const LayerRows<S>&, double*) {
  fail("[layer_loss] built without CUDA");
}
template void layer_rows_cuda<float>(Context&, const LayerRows<float>&, double*);
template void layer_rows_cuda<bf16>(Context&, const LayerRows<bf16>&, double*);

}  // namespace matvlm
