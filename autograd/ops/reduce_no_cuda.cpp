// Stands in for reduce.cu where the build has no CUDA.
#include "autograd/ops/reduce_device.h"
#include "core/error.h"

namespace matvlm {

void add_column_sums_cuda(Context&, int64_t, int64_t, const void*, int64_t, DType, float*, float*) {
  fail("[add_column_sums] this build has no CUDA");
}
void add_partials_cuda(Context&, int64_t, int64_t, const float*, float*) {
  fail("[add_partials] this build has no CUDA");
}
void sum_squares_cuda(Context&, int64_t, const float*, double*, double*) {
  fail("[sum_squares] this build has no CUDA");
}

}  // namespace matvlm
