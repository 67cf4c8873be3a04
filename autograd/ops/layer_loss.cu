// Row kernel of layer_loss: one block per row, sums in float64.
#include "autograd/ops/layer_loss.h"
#include "autograd/ops/loss_block.cuh"
#include "core/cuda_context.h"

namespace matvlm {
namespace {

constexpr int kThreads = 128;
constexpr double kCosineFloor = 1e-12;  // as on the CPU: below it loss 1, gradient 0

__device__ inline double wide(float x) { return x; }
__device__ inline double wide(bf16 x) { return static_cast<double>(static_cast<float>(x)); }

template <class S>
__device__ void store(S* p, double x) {
  *p = S(static_cast<float>(x));
}

// Loss of a row and the factor of its gradient, a multiple of the difference.
struct RowLoss {
  double value;
  double factor;
};

__device__ RowLoss difference_loss(LayerKind kind, bool segment_norm, int64_t width, double squares,
                                   double coefficient) {
  if (kind == LayerKind::mse) {
    const double factor = coefficient * 2.0 / static_cast<double>(width);
    return {squares / static_cast<double>(width), factor};
  }
  if (segment_norm) return {squares, coefficient};
  const double norm = sqrt(squares);
  const double factor = squares == 0 ? 0.0 : coefficient / norm;
  return {norm, factor};
}

template <class S>
__global__ void layer_rows_kernel(LayerRows<S> a, double* loss) {
  const int64_t r = blockIdx.x;
  const S* s = a.student + r * a.student_stride;
  const S* t = a.teacher + r * a.teacher_stride;
  S* grad = a.grad == nullptr ? nullptr : a.grad + r * a.width;
  if (a.coefficient[r] == 0) {
    for (int64_t i = threadIdx.x; grad != nullptr && i < a.width; i += kThreads) store(grad + i, 0.0);
    if (loss != nullptr && threadIdx.x == 0) loss[r] = 0;
    return;
  }
  const double coefficient = a.scale * a.coefficient[r];
  if (a.kind != LayerKind::cosine) {
    double squares = 0;
    for (int64_t i = threadIdx.x; i < a.width; i += kThreads) {
      const double d = wide(s[i]) - wide(t[i]);
      squares += d * d;
    }
    const RowLoss row = difference_loss(a.kind, a.segment_norm, a.width, block_sum<kThreads>(squares), coefficient);
    // The difference first: factor * s - factor * t would not be exactly 0 for equal rows.
    for (int64_t i = threadIdx.x; grad != nullptr && i < a.width; i += kThreads) {
      store(grad + i, row.factor * (wide(s[i]) - wide(t[i])));
    }
    if (loss != nullptr && threadIdx.x == 0) loss[r] = row.value;
    return;
  }
  double ss = 0, tt = 0, st = 0;
  for (int64_t i = threadIdx.x; i < a.width; i += kThreads) {
    ss += wide(s[i]) * wide(s[i]);
    tt += wide(t[i]) * wide(t[i]);
    st += wide(s[i]) * wide(t[i]);
  }
  ss = block_sum<kThreads>(ss);
  tt = block_sum<kThreads>(tt);
  st = block_sum<kThreads>(st);
  const bool small = ss * tt <= kCosineFloor * kCosineFloor;
  const double norms = small ? 1.0 : sqrt(ss * tt);  // exactly ss for equal rows
  const double along = small ? 0.0 : st / ss;
  const double factor = small ? 0.0 : coefficient / norms;
  for (int64_t i = threadIdx.x; grad != nullptr && i < a.width; i += kThreads) {
    store(grad + i, factor * (along * wide(s[i]) - wide(t[i])));
  }
  if (loss != nullptr && threadIdx.x == 0) loss[r] = small ? 1.0 : 1.0 - st / norms;
}

}  // namespace

template <class S>
void layer_rows_cuda(Context& ctx, const LayerRows<S>& a, double* loss) {
  if (a.rows == 0) return;
  layer_rows_kernel<<<static_cast<unsigned>(a.rows), kThreads, 0, cuda_stream(ctx)>>>(a, loss);
  MATVLM_LAUNCH_CHECK();
}
template void layer_rows_cuda<float>(Context&, const LayerRows<float>&, double*);
template void layer_rows_cuda<bf16>(Context&, const LayerRows<bf16>&, double*);

}  // namespace matvlm
