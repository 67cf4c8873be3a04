// The SSD token after token, states in registers: float32 operands, and widths or devices that have no tensor-core
// kernel.
#pragma once

#include "autograd/ops/ssd.h"

namespace matvlm {

// P and N up to kSsdMaxCudaWidth. Scratch: dt and decay; backward also states every 16 tokens and float32 gradients per
// head.
template <class E>
void ssd_scan_forward(Context& ctx, const SsdArgs<E, float>& args);
template <class E>
void ssd_scan_backward(Context& ctx, const SsdArgs<E, float>& args);

}  // namespace matvlm
