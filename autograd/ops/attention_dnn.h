// Attention by cuDNN's fused kernels, as a second back end beside attention.h: bf16, P a multiple of 8 up to 128,
// operands aligned to 16 bytes with strides that are multiples of 8. Letters and meaning as there.
#pragma once

#include <memory>

#include "autograd/ops/attention.h"

namespace matvlm {

// The plans of one device, one for each shape; made when a shape is first seen and kept. Not for two threads at once.
class DnnAttention;

// deterministic: of cuDNN's two ways to sum dq, the one with a fixed order. Error where the build has no CUDA or the
// context no GPU, and for a cuDNN before 9.6.
std::shared_ptr<DnnAttention> make_dnn_attention(Context& ctx, bool deterministic = true);

// What cuDNN is shown for a packed row: sequences of one length as they are, others as `length` rows each with
// boundaries. Sequences without tokens are left out.
struct DnnAttentionRows {
  int64_t batch = 0;
  int64_t length = 0;
  bool uniform = false;
  std::vector<int64_t> cu;  // [batch + 1]
};
DnnAttentionRows dnn_attention_rows(const Seqlens& lens);

// The arguments of attention.h, but for: ranges, which are those of `lens` for queries and keys alike; lse, which is
// f32 [batch, H, length] of dnn_attention_rows() and may be null in the forward; delta, which is not used. In the
// backward all three gradients are needed, and accumulate_* is not supported: Error.
void attention_forward_dnn(Context& ctx, DnnAttention& dnn, const Seqlens& lens,
                           const AttentionForwardArgs<bf16, float>& args);
void attention_backward_dnn(Context& ctx, DnnAttention& dnn, const Seqlens& lens,
                            const AttentionBackwardArgs<bf16, float>& args);

// attention() of attention.h by cuDNN.
Var attention_dnn(Graph& g, const std::shared_ptr<DnnAttention>& dnn, const AttentionShape& shape, const Var& q,
                  const Var& k, const Var& v, const SeqlensPtr& lens);

}  // namespace matvlm
