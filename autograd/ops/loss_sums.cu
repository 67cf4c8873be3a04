// Sums that the losses share, on the GPU.
#include "autograd/ops/loss_block.cuh"
#include "autograd/ops/loss_sums.h"
#include "core/cuda_context.h"

namespace matvlm {
namespace {

constexpr int kSumThreads = 256;

// One block per sample.
__global__ void segment_norms_kernel(const int64_t* begin, const float* row_weight, const float* segment_weight,
                                     const double* squares, double* norm, float* coefficient) {
  const int64_t b = blockIdx.x;
  const int64_t first = begin[b];
  const int64_t last = begin[b + 1];
  double sum = 0;
  for (int64_t r = first + threadIdx.x; r < last; r += kSumThreads) {
    if (row_weight[r] != 0) sum += squares[r];
  }
  const double root = sqrt(block_sum<kSumThreads>(sum));
  const float factor = root == 0 ? 0.0F : static_cast<float>(segment_weight[b] / root);
  for (int64_t r = first + threadIdx.x; r < last; r += kSumThreads) coefficient[r] = row_weight[r] == 0 ? 0.0F : factor;
  if (threadIdx.x == 0) norm[b] = root;
}

// One block.
__global__ void weighted_total_kernel(int64_t n, const float* weight, const double* value, double scale, float* loss,
                                      double* term) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kSumThreads) {
    if (weight[i] != 0) sum += weight[i] * value[i];
  }
  sum = block_sum<kSumThreads>(sum);
  if (threadIdx.x != 0) return;
  *term = sum;
  *loss = static_cast<float>(scale * sum);
}

}  // namespace

void segment_norms_cuda(Context& ctx, const SegmentNorms& a) {
  const int64_t segments = a.segment_weight.numel();
  if (segments == 0) return;
  segment_norms_kernel<<<static_cast<unsigned>(segments), kSumThreads, 0, cuda_stream(ctx)>>>(
      a.begin.data<int64_t>(), a.row_weight.data<float>(), a.segment_weight.data<float>(), a.squares.data<double>(),
      a.norm.data<double>(), a.coefficient.data<float>());
  MATVLM_LAUNCH_CHECK();
}

void weighted_total_cuda(Context& ctx, const Tensor& weight, const Tensor& value, double scale, const Tensor& loss,
                         const Tensor& term) {
  weighted_total_kernel<<<1, kSumThreads, 0, cuda_stream(ctx)>>>(
      weight.numel(), weight.data<float>(), value.data<double>(), scale, loss.data<float>(), term.data<double>());
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm
