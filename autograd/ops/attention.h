// Softmax attention over the sequences of a packed row: out = softmax(scale * q k^T) v per sequence and head, causal or
// full, with grouped keys and values.   T tokens, B sequences, H query heads, K key/value heads (K divides H; head h
// reads key head h / (H/K)), P head width. Sequence b has n_q query rows and n_k key rows; when causal, query i sees
// the keys j <= n_k - n_q + i.
#pragma once

#include <cstdint>

#include "autograd/graph.h"
#include "autograd/ops/rotary.h"
#include "autograd/seqlens.h"

namespace matvlm {

struct AttentionShape {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  bool causal = true;
  double scale = 1.0;  // of the logits, usually 1/sqrt(P)
};

// Where the sequences lie: sequence b has the query rows [q_begin[b], q_end[b]) and the key and value rows
// [k_begin[b], k_end[b]). Empty ones are allowed; where there are queries there is at least one key and, when causal,
// at least as many keys as queries. The arrays are on the device of the tensors they go with.
struct AttentionRanges {
  int64_t batch = 0;                 // B
  int64_t longest_q = 0;             // most query rows of a sequence
  int64_t longest_k = 0;             // most key rows of a sequence
  const int64_t* q_begin = nullptr;  // [B]
  const int64_t* q_end = nullptr;    // [B]
  const int64_t* k_begin = nullptr;  // [B]
  const int64_t* k_end = nullptr;    // [B]
};

// T: element type; S: type of the softmax statistics (T itself on the CPU, float on a GPU).
template <class T, class S = T>
struct AttentionForwardArgs {
  AttentionShape shape;
  AttentionRanges ranges;
  int64_t tokens = 0;    // T: rows of q and out, columns of lse
  int64_t kv_rows = 0;   // rows of k and v
  const T* q = nullptr;  // [T, H*P]
  const T* k = nullptr;  // [rows, K*P]
  const T* v = nullptr;  // [rows, K*P]
  T* out = nullptr;      // [T, H*P]
  int64_t q_stride = 0;
  int64_t k_stride = 0;
  int64_t v_stride = 0;
  int64_t out_stride = 0;
  S* lse = nullptr;  // [H, T] log-sum-exp of the scaled logits; may be null
  // On a GPU: the kernels that every GPU has, where this one's own would be chosen. For tests and comparisons.
  bool portable = false;
};

// Gradients of q, k, v from that of out. A null gradient pointer means not needed. With accumulate_* the result is
// added to what is there.
template <class T, class S = T>
struct AttentionBackwardArgs {
  AttentionForwardArgs<T, S> forward;  // out and lse are inputs here
  const T* grad_out = nullptr;         // [T, H*P]
  int64_t grad_out_stride = 0;
  S* delta = nullptr;  // scratch [H, T]: row sums of grad_out * out
  T* dq = nullptr;     // [T, H*P]
  T* dk = nullptr;     // [rows, K*P]
  T* dv = nullptr;     // [rows, K*P]
  int64_t dq_stride = 0;
  int64_t dk_stride = 0;
  int64_t dv_stride = 0;
  bool accumulate_dq = false;
  bool accumulate_dk = false;
  bool accumulate_dv = false;
  // The rotation that q and k have had: dq and dk become the gradients from before it. CUDA ops only. Without
  // accumulate_dq and accumulate_dk, and with the same T rows for queries and keys: Error otherwise.
  RotaryAngles turned;
};

// CUDA launchers, T = float or bf16; P a multiple of 4, at most 128; bf16 needs compute capability 8.0 and a scale over
// 0, Error without. The CPU ops are in attention_cpu.h.
template <class T>
void attention_forward_cuda(Context& ctx, const AttentionForwardArgs<T, float>& args);
template <class T>
void attention_backward_cuda(Context& ctx, const AttentionBackwardArgs<T, float>& args);

// Error naming what was found unless the sizes make sense (positive, K divides H, ...).
void check_attention_shape(const char* op, const AttentionShape& shape);

// Forward into out [T, H*P] and, when defined, lse f32 [H, T]; k, v [rows, K*P].
void attention_into(Context& ctx, const AttentionShape& shape, const AttentionRanges& ranges, const Tensor& q,
                    const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse);

// q [T, H*P], k and v [T, K*P], all of one dtype (f32; bf16 on a GPU); lens covers the T tokens. -> [T, H*P],
// contiguous. Saved for backward: q, k, v, the output and f32 [H, T]; no [T, T] matrix.
// turned: how q and k have been rotated by turn_in_place(); their gradients are then those from before it.
Var attention(Graph& g, const AttentionShape& shape, const Var& q, const Var& k, const Var& v, const SeqlensPtr& lens,
              const RotaryTurn& turned = {});

}  // namespace matvlm
