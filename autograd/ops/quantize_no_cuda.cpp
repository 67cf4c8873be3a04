// Stands in for quantize.cu where the build has no CUDA.
#include "autograd/ops/quantize.h"

namespace matvlm {

template <class T>
void quantize_cuda(Context&, const QuantizeArgs<T>&) {
  fail("[quantize] this build has no CUDA");
}
template void quantize_cuda<float>(Context&, const QuantizeArgs<float>&);
template void quantize_cuda<bf16>(Context&, const QuantizeArgs<bf16>&);
void transpose_bytes_cuda(Context&, int64_t, int64_t, const uint8_t*, uint8_t*) {
  fail("[transpose] this build has no CUDA");
}

}  // namespace matvlm
