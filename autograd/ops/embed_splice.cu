// Token embedding with spliced features on the GPU: one block a row.
#include "autograd/ops/elementwise.cuh"
#include "autograd/ops/embed_splice.h"

namespace matvlm {
namespace {

constexpr int kTableThreads = 256;

template <class T>
__global__ void forward_kernel(EmbedSpliceForward<T> a) {
  for (int64_t t = blockIdx.x; t < a.tokens; t += gridDim.x) {
    const int64_t s = a.source[t];
    const T* row = s >= 0 ? a.table + s * a.width : a.features + (-1 - s) * a.features_stride;
    for (int64_t c = threadIdx.x; c < a.width; c += kTableThreads) a.y[t * a.width + c] = row[c];
  }
}

template <class T>
__global__ void feature_grad_kernel(EmbedSpliceFeatureGrad<T> a) {
  for (int64_t m = blockIdx.x; m < a.features; m += gridDim.x) {
    T* dst = a.dfeatures + m * a.dfeatures_stride;
    const int64_t t = a.token_of[m];
    for (int64_t c = threadIdx.x; c < a.width; c += kTableThreads) {
      store_or_add(dst + c, t < 0 ? 0.0F : load_float(a.dy + t * a.dy_stride + c), a.accumulate);
    }
  }
}

template <class T>
__global__ void table_grad_kernel(EmbedSpliceTableGrad<T, float> a) {
  for (int64_t u = blockIdx.x; u < a.unique; u += gridDim.x) {
    if (a.begin[u] == a.begin[u + 1]) continue;
    float* dst = a.dtable + a.ids[u] * a.width;
    for (int64_t c = threadIdx.x; c < a.width; c += kTableThreads) {
      float sum = dst[c];
      for (int64_t i = a.begin[u]; i < a.begin[u + 1]; ++i) sum += load_float(a.dy + a.order[i] * a.dy_stride + c);
      dst[c] = sum;
    }
  }
}

}  // namespace

template <class T>
void embed_splice_forward_cuda(Context& ctx, const EmbedSpliceForward<T>& args) {
  if (args.tokens == 0) return;
  forward_kernel<<<grid_for(args.tokens, 1), kTableThreads, 0, cuda_stream(ctx)>>>(args);
  MATVLM_LAUNCH_CHECK();
}

template <class T>
void embed_splice_feature_grad_cuda(Context& ctx, const EmbedSpliceFeatureGrad<T>& args) {
  if (args.features == 0) return;
  feature_grad_kernel<<<grid_for(args.features, 1), kTableThreads, 0, cuda_stream(ctx)>>>(args);
  MATVLM_LAUNCH_CHECK();
}

template <class T>
void embed_splice_table_grad_cuda(Context& ctx, const EmbedSpliceTableGrad<T, float>& args) {
  if (args.unique == 0) return;
  table_grad_kernel<<<grid_for(args.unique, 1), kTableThreads, 0, cuda_stream(ctx)>>>(args);
  MATVLM_LAUNCH_CHECK();
}

template void embed_splice_forward_cuda<float>(Context&, const EmbedSpliceForward<float>&);
template void embed_splice_forward_cuda<bf16>(Context&, const EmbedSpliceForward<bf16>&);
template void embed_splice_feature_grad_cuda<float>(Context&, const EmbedSpliceFeatureGrad<float>&);
template void embed_splice_feature_grad_cuda<bf16>(Context&, const EmbedSpliceFeatureGrad<bf16>&);
template void embed_splice_table_grad_cuda<float>(Context&, const EmbedSpliceTableGrad<float, float>&);
template void embed_splice_table_grad_cuda<bf16>(Context&, const EmbedSpliceTableGrad<bf16, float>&);

}  // namespace matvlm
