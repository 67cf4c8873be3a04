// The chunked form of the SSD on tensor cores, for bf16 operands: whether a problem is one for it, and the launchers.
#pragma once

#include "autograd/ops/ssd.h"

namespace matvlm {

// Decided by shape and device only. Not for states after every token, or widths and devices that no compiled kernel
// fits.
bool ssd_chunk_applies(Context& ctx, const SsdArgs<bf16, float>& args, bool backward);

// Scratch from the context's allocator. Forward: dt and exponents (8 bytes a token and head; `steps`, as in ssd.h), and
// where sequences are split a float32 state per part of them. Backward: dt and exponents without `steps`, two bf16
// states per 64 tokens and head, and float32 sums where heads share a group of x, B or C.
void ssd_chunk_forward(Context& ctx, const SsdArgs<bf16, float>& args, Tensor* steps);
void ssd_chunk_backward(Context& ctx, const SsdArgs<bf16, float>& args, const Tensor& steps);

}  // namespace matvlm
