// Row kernel of layer_loss: one block per row, 16 bytes a load where the rows allow it, sums in float64.
#include "autograd/ops/layer_loss.h"
#include "autograd/ops/loss_block.cuh"
#include "autograd/ops/pack.cuh"
#include "core/cuda_context.h"

namespace matvlm {
namespace {

constexpr int kLayerThreads = 128;
constexpr double kCosineFloor = 1e-12;  // as on the CPU: below it loss 1, gradient 0

// Calls f(i, s, t) with elements i to i + V - 1 of both rows, for all of them over the block's threads.
template <class S, int V, class F>
__device__ void for_each_pair(const S* s_row, const S* t_row, int64_t width, F&& f) {
  for (int64_t i = static_cast<int64_t>(threadIdx.x) * V; i < width; i += kLayerThreads * V) {
    float s[V], t[V];
    Pack<S, V>::load(s_row + i).unpack(s);
    Pack<S, V>::load(t_row + i).unpack(t);
    f(i, s, t);
  }
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

template <class S, int V>
__global__ void __launch_bounds__(kLayerThreads) layer_rows_kernel(LayerRows<S> a, double* loss) {
  const int64_t r = blockIdx.x;
  const S* s_row = a.student + r * a.student_stride;
  const S* t_row = a.teacher + r * a.teacher_stride;
  S* grad = a.grad == nullptr ? nullptr : a.grad + r * a.width;
  if (a.coefficient[r] == 0) {
    for (int64_t i = static_cast<int64_t>(threadIdx.x) * V; grad != nullptr && i < a.width; i += kLayerThreads * V) {
      Pack<S, V>{}.store(grad + i);
    }
    if (loss != nullptr && threadIdx.x == 0) loss[r] = 0;
    return;
  }
  const double coefficient = a.scale * a.coefficient[r];
  // grad = factor * (along * s - t). The difference first: factor * s - factor * t would not be 0 for equal rows.
  double factor = 0;
  double along = 1;
  double value = 0;
  if (a.kind != LayerKind::cosine) {
    double squares = 0;
    for_each_pair<S, V>(s_row, t_row, a.width, [&](int64_t, const float(&s)[V], const float(&t)[V]) {
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const double d = static_cast<double>(s[j]) - static_cast<double>(t[j]);
        squares += d * d;
      }
    });
    const RowLoss row =
        difference_loss(a.kind, a.segment_norm, a.width, block_sum<kLayerThreads>(squares), coefficient);
    factor = row.factor;
    value = row.value;
  } else {
    double ss = 0, tt = 0, st = 0;
    for_each_pair<S, V>(s_row, t_row, a.width, [&](int64_t, const float(&s)[V], const float(&t)[V]) {
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const auto sv = static_cast<double>(s[j]);
        const auto tv = static_cast<double>(t[j]);
        ss += sv * sv;
        tt += tv * tv;
        st += sv * tv;
      }
    });
    ss = block_sum<kLayerThreads>(ss);
    tt = block_sum<kLayerThreads>(tt);
    st = block_sum<kLayerThreads>(st);
    const bool small = ss * tt <= kCosineFloor * kCosineFloor;
    const double norms = small ? 1.0 : sqrt(ss * tt);  // exactly ss for equal rows
    along = small ? 0.0 : st / ss;
    factor = small ? 0.0 : coefficient / norms;
    value = small ? 1.0 : 1.0 - st / norms;
  }
  if (loss != nullptr && threadIdx.x == 0) loss[r] = value;
  if (grad == nullptr) return;
  for_each_pair<S, V>(s_row, t_row, a.width, [&](int64_t i, const float(&s)[V], const float(&t)[V]) {
    float g[V];
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const double difference = along * static_cast<double>(s[j]) - static_cast<double>(t[j]);
      g[j] = static_cast<float>(factor * difference);
    }
    Pack<S, V>::pack(g).store(grad + i);
  });
}

}  // namespace

template <class S>
void layer_rows_cuda(Context& ctx, const LayerRows<S>& a, double* loss) {
  if (a.rows == 0) return;
  constexpr int V = kPackWidth<S>;
  const bool packed = a.width % V == 0 && rows_aligned(a.student, a.student_stride, V) &&
                      rows_aligned(a.teacher, a.teacher_stride, V) && rows_aligned(a.grad, a.width, V);
  const auto blocks = static_cast<unsigned>(a.rows);
  if (packed) {
    layer_rows_kernel<S, V><<<blocks, kLayerThreads, 0, cuda_stream(ctx)>>>(a, loss);
  } else {
    layer_rows_kernel<S, 1><<<blocks, kLayerThreads, 0, cuda_stream(ctx)>>>(a, loss);
  }
  MATVLM_LAUNCH_CHECK();
}
template void layer_rows_cuda<float>(Context&, const LayerRows<float>&, double*);
template void layer_rows_cuda<bf16>(Context&, const LayerRows<bf16>&, double*);

}  // namespace matvlm
