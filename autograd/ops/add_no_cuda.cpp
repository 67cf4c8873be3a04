// Stands in for add.cu where the build has no CUDA.
#include "autograd/ops/add_device.h"
#include "core/error.h"

namespace matvlm {

void add_cuda(Context&, const AddDeviceArgs&) { fail("[add] this build has no CUDA"); }

}  // namespace matvlm
