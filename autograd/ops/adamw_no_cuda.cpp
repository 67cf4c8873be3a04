// Stands in for adamw.cu where the build has no CUDA.
#include "autograd/ops/adamw_device.h"
#include "core/error.h"

namespace matvlm {

void adamw_cuda(Context&, const AdamWArenas&, const AdamWStep&) { fail("[adamw] this build has no CUDA"); }

}  // namespace matvlm
