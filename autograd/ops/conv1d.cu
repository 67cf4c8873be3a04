// The causal convolution with SiLU on a GPU: which kernels run, and how. A thread owns V neighbouring channels; V is 1
// where rows are not aligned, and for 2 or 3 taps. The kernels are in conv1d_forward.cuh and conv1d_backward.cuh.
#include "autograd/ops/conv1d.h"

#include <type_traits>

#include "autograd/ops/conv1d_backward.cuh"
#include "autograd/ops/conv1d_forward.cuh"

namespace matvlm {
namespace {

using namespace conv1d_kernels;

constexpr int64_t kStepTokens = 16;  // sequences up to this length: state and tokens in one launch

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

// Calls f with the taps.
template <class F>
void with_width(int64_t width, F&& f) {
  if (width == 4) return f(Constant<4>{});
  if (width == 3) return f(Constant<3>{});
  check(width == 2, "[conv1d] found ", width, " taps, expected 2 to ", kConvMaxWidth);
  f(Constant<2>{});
}

template <class E>
bool weights_aligned(const Conv1dArgs<E, float>& a, int V) {
  return a.channels % V == 0 && rows_aligned(a.weight, 0, V) && rows_aligned(a.bias, 0, V);
}

template <class E>
bool forward_aligned(const Conv1dArgs<E, float>& a, int V) {
  return weights_aligned(a, V) && rows_aligned(a.x, a.x_stride, V) && rows_aligned(a.y, a.y_stride, V) &&
         rows_aligned(a.initial, 0, V) && rows_aligned(a.final_state, 0, V) && rows_aligned(a.every, 0, V);
}

template <class E>
bool backward_aligned(const Conv1dArgs<E, float>& a, int V) {
  return weights_aligned(a, V) && rows_aligned(a.x, a.x_stride, V) && rows_aligned(a.dy, a.dy_stride, V) &&
         rows_aligned(a.dx, a.dx_stride, V);
}

template <class E, int V, int W, class Plan>
void forward(Context& ctx, const Conv1dArgs<E, float>& a) {
  const bool wants_final = a.final_state != nullptr && a.batch > 0;
  if (wants_final && a.longest <= kStepTokens) return launch_sequences<E, V, W, true>(ctx, a);
  if (a.tokens > 0) launch_forward<E, W, Plan>(ctx, a);
  if (wants_final) launch_sequences<E, V, W, false>(ctx, a);  // after the tokens, whose blocks read the initial state
}

// Fastest of the plans tried on an H100 (tests/bench/RESULTS.md), and those of rows that are not aligned or of 2 or 3
// taps.
template <class E>
using WideForward = ForwardPlan<kPackWidth<E> / 2, 1, 12, 0>;
using NarrowForward = ForwardPlan<1, 0, 16, 32>;
template <class E>
using WideBackward = BackwardPlan<4, 2, 2, sizeof(E) == 2 ? 8 : 6, 0>;
using NarrowBackward = BackwardPlan<1, 4, 0, 7, 32>;

}  // namespace

template <class E>
void conv1d_forward_cuda(Context& ctx, const Conv1dArgs<E, float>& a) {
  if (a.channels == 0) return;
  constexpr int V = kPackWidth<E>;
  if (a.width == 4 && forward_aligned(a, V)) return forward<E, V, 4, WideForward<E>>(ctx, a);
  with_width(a.width, [&](auto width) { forward<E, 1, width(), NarrowForward>(ctx, a); });
}

template <class E>
void conv1d_backward_cuda(Context& ctx, const Conv1dArgs<E, float>& a) {
  if (a.channels == 0 || a.tokens == 0) return;
  if (a.width == 4 && backward_aligned(a, WideBackward<E>::V)) return launch_backward<E, 4, WideBackward<E>>(ctx, a);
  with_width(a.width, [&](auto width) { launch_backward<E, width(), NarrowBackward>(ctx, a); });
}

template void conv1d_forward_cuda(Context&, const Conv1dArgs<float, float>&);
template void conv1d_forward_cuda(Context&, const Conv1dArgs<bf16, float>&);
template void conv1d_backward_cuda(Context&, const Conv1dArgs<float, float>&);
template void conv1d_backward_cuda(Context&, const Conv1dArgs<bf16, float>&);

}  // namespace matvlm
