// Which kernels do an SSD call on a GPU: chosen by element type, shape and device, never by timing.
#include "autograd/ops/ssd.h"
#include "autograd/ops/ssd_chunk.h"
#include "autograd/ops/ssd_scan.h"
#include "autograd/ops/ssd_step.h"

namespace matvlm {

template <class E>
void ssd_forward_cuda(Context& ctx, const SsdArgs<E, float>& a, Tensor* steps) {
  if (steps != nullptr) *steps = Tensor();
  // Only what decodes goes token after token: in training a short sample has to get the same bits alone and in a row.
  const bool carried = a.initial != nullptr || a.final_state != nullptr;
  if (a.every != nullptr || (carried && a.longest <= kSsdStepTokens)) return ssd_step_cuda(ctx, a);
  if constexpr (std::is_same_v<E, bf16>) {
    if (ssd_chunk_applies(ctx, a, false)) return ssd_chunk_forward(ctx, a, steps);
  }
  ssd_scan_forward(ctx, a);
}

template <class E>
void ssd_backward_cuda(Context& ctx, const SsdArgs<E, float>& a, const Tensor& steps) {
  if constexpr (std::is_same_v<E, bf16>) {
    if (ssd_chunk_applies(ctx, a, true)) return ssd_chunk_backward(ctx, a, steps);
  }
  ssd_scan_backward(ctx, a);
}

template void ssd_forward_cuda(Context&, const SsdArgs<float, float>&, Tensor*);
template void ssd_forward_cuda(Context&, const SsdArgs<bf16, float>&, Tensor*);
template void ssd_backward_cuda(Context&, const SsdArgs<float, float>&, const Tensor&);
template void ssd_backward_cuda(Context&, const SsdArgs<bf16, float>&, const Tensor&);

}  // namespace matvlm
