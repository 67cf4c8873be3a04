// Depthwise causal convolution with bias, followed by SiLU, restarting at every sample boundary (the conv of Mamba-2):
//   pre[t, c] = bias[c] + sum_w weight[c, w] * x[t - (W-1) + w, c],   y = pre * sigmoid(pre)
// where x before the start of a sequence is its initial state (zeros without one).
// T tokens of a packed row, B sequences, C channels, W taps (2..4), S rows of state.
#pragma once

#include "autograd/graph.h"
#include "autograd/ops/state_io.h"
#include "autograd/seqlens.h"

namespace matvlm {

// x [T, C] (any row stride), weight [C, 1, W], bias [C], all of one dtype, f32 or bf16 -> y [T, C]. lens covers all T
// tokens. Error on other shapes, dtypes or devices, and on a state in a recording graph.
Var causal_conv1d_silu(Graph& g, const Var& x, const Weight& weight, const Weight& bias, const SeqlensPtr& lens,
                       const StateIo* state = nullptr);

constexpr int64_t kConvMaxWidth = 4;

// Raw op. Element type E, and F for sums and weight gradients (E = F on the CPU, F = float on the GPU). Strides in
// elements. cu is in the memory of the device that runs the op.
template <class E, class F = E>
struct Conv1dArgs {
  int64_t tokens = 0, channels = 0, width = 0, batch = 0;
  int64_t longest = 0;          // of the sequences
  const int64_t* cu = nullptr;  // [B+1]
  const E* x = nullptr;         // [T, C]
  int64_t x_stride = 0;
  const E* weight = nullptr;  // [C, W]
  const E* bias = nullptr;    // [C]
  // Forward.
  E* y = nullptr;  // [T, C]
  int64_t y_stride = 0;
  const E* initial = nullptr;      // [S, W-1, C] or null
  const int64_t* slots = nullptr;  // [B] or null
  E* final_state = nullptr;        // [S, W-1, C] or null
  E* every = nullptr;              // [T, W-1, C] or null
  // Backward, without initial state.
  const E* dy = nullptr;  // [T, C]
  int64_t dy_stride = 0;
  E* dx = nullptr;  // [T, C] or null
  int64_t dx_stride = 0;
  bool dx_accumulate = false;
  F* dweight = nullptr;  // [C, W] or null; added into
  F* dbias = nullptr;    // [C] or null; added into
};

// GPU launchers for float and bf16 (conv1d.cu). They take what scratch they need from the context's allocator.
template <class E>
void conv1d_forward_cuda(Context& ctx, const Conv1dArgs<E, float>& args);
template <class E>
void conv1d_backward_cuda(Context& ctx, const Conv1dArgs<E, float>& args);

}  // namespace matvlm
