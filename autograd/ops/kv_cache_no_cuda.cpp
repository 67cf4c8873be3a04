// Stands in for kv_cache.cu and the decode kernels over pages where the build has no CUDA.
#include "autograd/ops/attention_pages.h"

namespace matvlm {

bool decode_paged_fits(Context&, const AttentionShape&, DType, int64_t, const AttentionPages&) { return false; }
void decode_paged_cuda(Context&, const AttentionForwardArgs<bf16, float>&, const AttentionPages&) {
  fail("[attention_cached] this build has no CUDA");
}

template <class T>
void write_pages_cuda(Context&, const PageWrite<T>&) {
  fail("[attention_cached] this build has no CUDA");
}
template void write_pages_cuda<float>(Context&, const PageWrite<float>&);
template void write_pages_cuda<bf16>(Context&, const PageWrite<bf16>&);

template <class T>
void gather_pages_cuda(Context&, const AttentionPages&, const AttentionRanges&, int64_t, T*, T*) {
  fail("[attention_cached] this build has no CUDA");
}
template void gather_pages_cuda<float>(Context&, const AttentionPages&, const AttentionRanges&, int64_t, float*,
                                       float*);
template void gather_pages_cuda<bf16>(Context&, const AttentionPages&, const AttentionRanges&, int64_t, bf16*, bf16*);

}  // namespace matvlm
