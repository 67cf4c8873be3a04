// The GPU kernels of attention, one pair of launchers per family. attention_cuda.cpp chooses among them; everything
// here assumes that choice: no checks of its own but those of the launch.
#pragma once

#include "autograd/ops/attention.h"
#include "core/dtype.h"

namespace matvlm::attention_kernels {

constexpr int kMaxHeadDim = 128;

using Bf16Forward = AttentionForwardArgs<bf16, float>;
using Bf16Backward = AttentionBackwardArgs<bf16, float>;

// float32 arithmetic on the CUDA cores, any scale. attention.cu, attention_backward.cu
void forward_plain(Context& ctx, const AttentionForwardArgs<float, float>& args);
void backward_plain(Context& ctx, const AttentionBackwardArgs<float, float>& args);

// a.delta; every backward needs it first. attention_delta.cu
template <class T>
void row_deltas(Context& ctx, const AttentionBackwardArgs<T, float>& args);

// mma.sync, compute capability 8.0 and later, scale > 0. kDim: P rounded up to one of 32, 64, 80, 96, 128.
// attention_mma_*.cu
template <int kDim>
void forward_mma(Context& ctx, const Bf16Forward& args);
template <int kDim>
void backward_mma(Context& ctx, const Bf16Backward& args);

// Few queries against many keys, compute capability 8.0 and later, scale > 0. kDim as above. attention_decode.cu
template <int kDim>
void forward_decode(Context& ctx, const Bf16Forward& args);

// wgmma and bulk tensor copies, compute capability 9.0, scale > 0; P a multiple of 8, every operand aligned to 16 bytes
// at a stride that is a multiple of 8. kDim: P rounded up to one of 64, 80, 96, 128. attention_hopper_*.cu
// args.turned of a backward: none, or kTurnDims<kDim> dims with a table. These are Phi's or whole heads; at 128 the
// registers for them are missing.
template <int kDim>
constexpr int kTurnDims = kDim <= 96 ? kDim : 0;
template <>
inline constexpr int kTurnDims<80> = 32;
template <int kDim>
void forward_hopper(Context& ctx, const Bf16Forward& args);
template <int kDim>
void dq_hopper(Context& ctx, const Bf16Backward& args);
template <int kDim>
void dkv_hopper(Context& ctx, const Bf16Backward& args);
// False where the build left sm_90a out: their kernels are empty then.
bool hopper_compiled(Context& ctx);

}  // namespace matvlm::attention_kernels
