// Stands in for rotary.cu where the build has no CUDA.
#include "autograd/ops/rotary.h"

namespace matvlm {

template <class T>
void rotary_cuda(Context&, const RotaryArgs<T>&) {
  fail("[rotary] this build has no CUDA");
}
template void rotary_cuda<float>(Context&, const RotaryArgs<float>&);
template void rotary_cuda<bf16>(Context&, const RotaryArgs<bf16>&);

}  // namespace matvlm
