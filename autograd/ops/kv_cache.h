// Keys and values of the tokens seen so far, one slot per running sequence, and attention of new tokens over them.
//   S slots, each of `capacity` rows; T new tokens of B sequences, sequence b lives in slot slots[b]; K*P key width.
#pragma once

#include <cstdint>
#include <vector>

#include "autograd/ops/attention.h"
#include "autograd/seqlens.h"
#include "core/tensor.h"

namespace matvlm {

struct KvCache {
  Tensor k, v;  // [S, capacity, K*P], compute dtype
  int64_t capacity = 0;
  std::vector<int64_t> length;  // [S] tokens stored per slot; lowering one rolls that slot back
};

// Empty slots. Error unless all sizes are positive.
KvCache make_kv_cache(Context& ctx, int64_t slots, int64_t capacity, int64_t kv_width, DType dtype);

// Appends rows of k_new and v_new [T, K*P] (as lens cuts them into sequences) to their slots; lengths advance. Error,
// with the cache unchanged, when a slot would exceed its capacity, does not exist or is named twice.
void kv_append(Context& ctx, KvCache& cache, const Tensor& k_new, const Tensor& v_new, const SeqlensPtr& lens,
               const std::vector<int64_t>& slots);

// Causal attention of the T newest tokens, q [T, H*P], over their slots, to which they were just appended: of a slot
// with n tokens of which the sequence's m are the last, query i sees keys j <= n - m + i. -> [T, H*P], contiguous.
Tensor attention_cached(Context& ctx, const AttentionShape& shape, const Tensor& q, const KvCache& cache,
                        const SeqlensPtr& lens, const std::vector<int64_t>& slots);

}  // namespace matvlm
