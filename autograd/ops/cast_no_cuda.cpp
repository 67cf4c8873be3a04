// Stands in for cast.cu where the build has no CUDA.
#include "autograd/ops/cast_device.h"
#include "core/error.h"

namespace matvlm {

void cast_cuda(Context&, int64_t, const void*, DType, void*, DType) { fail("[cast] this build has no CUDA"); }

}  // namespace matvlm
