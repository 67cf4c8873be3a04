// Where the build has no CUDA no tensor is on a GPU, so these are never reached.
#include "autograd/ops/head_loss.h"

namespace matvlm {
namespace {
[[noreturn]] void no_cuda() { fail("[head_loss] built without CUDA"); }
}  // namespace

template <class G>
void head_rows_cuda(Context&, const HeadRows<float, G>&) {
  no_cuda();
}
template void head_rows_cuda<float>(Context&, const HeadRows<float, float>&);
template void head_rows_cuda<bf16>(Context&, const HeadRows<float, bf16>&);
void head_totals_cuda(Context&, const HeadTotals&) { no_cuda(); }
void gather_rows_cuda(Context&, int64_t, int64_t, const int64_t*, const void*, int64_t, void*) { no_cuda(); }
void scatter_rows_cuda(Context&, int64_t, int64_t, const int64_t*, const void*, void*, int64_t) { no_cuda(); }
template <class T>
void add_column_sums_cuda(Context&, int64_t, int64_t, const T*, float*) {
  no_cuda();
}
template void add_column_sums_cuda<float>(Context&, int64_t, int64_t, const float*, float*);
template void add_column_sums_cuda<bf16>(Context&, int64_t, int64_t, const bf16*, float*);
void argmax_rows_cuda(Context&, int64_t, int64_t, const float*, int64_t, int32_t*) { no_cuda(); }

}  // namespace matvlm
