// The state-space recurrence of Mamba-2 (SSD), per head, with a P x N state s that restarts at every sample boundary:
//   dt = softplus(dt_raw + dt_bias),  A = -exp(a_log)
//   s_t = exp(dt_t A) s_{t-1} + dt_t x_t (outer) B_t,   y_t = s_t C_t + D x_t
// T tokens of a packed row, B sequences, H heads, P head width, N state size, S rows of carried state.
#pragma once

#include "autograd/graph.h"
#include "autograd/ops/state_io.h"
#include "autograd/seqlens.h"

namespace matvlm {

// Head h reads group h / (heads / groups) of x, B and C; nothing is repeated in memory.
struct SsdShape {
  int64_t heads = 0, x_groups = 0, b_groups = 0, c_groups = 0;  // every group count divides heads
  int64_t head_dim = 0, state = 0;                              // P, N
};

// x [T, x_groups*P], b [T, b_groups*N], c [T, c_groups*N], dt [T, H] raw (before bias and softplus): one dtype, f32 or
// bf16, any row strides. a_log, d, dt_bias: f32 [H]. -> y [T, H*P]. lens covers all T tokens. States and statistics are
// float32. On a GPU P and N are at most 128. Error on other shapes, dtypes or devices, and on a state in a recording
// graph.
Var ssd(Graph& g, const SsdShape& shape, const Var& x, const Var& b, const Var& c, const Var& dt, const Weight& a_log,
        const Weight& d, const Weight& dt_bias, const SeqlensPtr& lens, const StateIo* state = nullptr);

constexpr int64_t kSsdMaxCudaWidth = 128;

// Raw op. Element type E; F for weights, states, sums and weight gradients (E = F on the CPU, F = float on the GPU).
// Strides in elements. cu is in the memory of the device that runs the op.
template <class E, class F = E>
struct SsdArgs {
  SsdShape shape;
  int64_t tokens = 0, batch = 0;
  int64_t longest = 0;                               // of the sequences
  const int64_t* cu = nullptr;                       // [B+1]
  const E *x = nullptr, *b = nullptr, *c = nullptr;  // [T, groups*P or N]
  const E* dt = nullptr;                             // [T, H]
  int64_t x_stride = 0, b_stride = 0, c_stride = 0, dt_stride = 0;
  const F *a_log = nullptr, *d = nullptr, *dt_bias = nullptr;  // [H]
  // Forward.
  E* y = nullptr;  // [T, H*P]
  int64_t y_stride = 0;
  const F* initial = nullptr;      // [S, H, P, N] or null
  const int64_t* slots = nullptr;  // [B] or null
  F* final_state = nullptr;        // [S, H, P, N] or null
  F* every = nullptr;              // [T, H, P, N] or null
  // Backward of y and final_state; reads `initial` too. Null outputs are not wanted.
  const E* dy = nullptr;  // [T, H*P]
  int64_t dy_stride = 0;
  const F* dfinal_state = nullptr;  // [B, H, P, N] gradient of the state after each sequence; null = 0
  F* dinitial = nullptr;            // [B, H, P, N] gradient of the state before it; overwritten
  E *dx = nullptr, *db = nullptr, *dc = nullptr, *ddt = nullptr;  // shapes of x, b, c, dt
  int64_t dx_stride = 0, db_stride = 0, dc_stride = 0, ddt_stride = 0;
  bool dx_accumulate = false, db_accumulate = false, dc_accumulate = false, ddt_accumulate = false;
  F *da_log = nullptr, *dd = nullptr, *ddt_bias = nullptr;  // [H]; added into
  // GPU: not 0: the kernels for devices without bulk copies, as chosen where a block may have so many bytes of shared
  // memory; for tests of what smaller GPUs run.
  int64_t portable_shared = 0;
};

// GPU launchers for float and bf16 (ssd.cu). They take what scratch they need from the context's allocator.
// steps: what forward makes of dt, a_log and dt_bias, so that backward of the same operands need not make it again.
// Forward sets it where not null, to an undefined tensor where its kernels have nothing of the kind.
template <class E>
void ssd_forward_cuda(Context& ctx, const SsdArgs<E, float>& args, Tensor* steps = nullptr);
template <class E>
void ssd_backward_cuda(Context& ctx, const SsdArgs<E, float>& args, const Tensor& steps = {});

}  // namespace matvlm
