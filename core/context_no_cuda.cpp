// Stands in for context_cuda.cpp where the build has no CUDA.
#include "core/context.h"
#include "core/error.h"

namespace matvlm {

std::unique_ptr<Context> make_cuda_context(int index) {
  fail("[cuda] device ", index, " was asked for, but this build has no CUDA");
}
int cuda_device_count() { return 0; }

}  // namespace matvlm
