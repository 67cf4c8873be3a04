// Stands in for random_fill.cu where the build has no CUDA.
#include "autograd/ops/random_fill_device.h"
#include "core/error.h"

namespace matvlm {

void fill_random_cuda(Context&, int64_t, double, double, const Rng&, void*, DType) {
  fail("[fill_random] this build has no CUDA");
}

}  // namespace matvlm
