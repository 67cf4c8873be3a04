// Keys and values of the tokens seen so far, one slot per running sequence, in pages that are taken as tokens come and
// given back when they go; and attention of new tokens over them.
//   A page holds `page_tokens` tokens of one slot for all attention layers. A pass appends T new tokens of B sequences,
//   of which sequence b lives in slot slots[b]; K*P key width.
#pragma once

#include <cstdint>
#include <vector>

#include "autograd/ops/attention.h"
#include "autograd/ops/attention_pages.h"
#include "autograd/seqlens.h"
#include "core/tensor.h"

namespace matvlm {

// page_tokens of at least a slot's capacity: one page a slot, so that its rows are contiguous.
struct KvPages {
  int64_t page_tokens = 64;
  int64_t max_pages = 0;  // of all slots together; 0: as many as there is memory for
};

struct KvCacheSize {
  int64_t layers = 0;
  int64_t slots = 0;
  int64_t capacity = 0;  // tokens a slot may hold
  int64_t width = 0;     // K*P
};

class KvCache {
 public:
  KvCache() = default;  // no slots, for models without attention
  KvCache(KvCache&&) = default;
  KvCache& operator=(KvCache&&) = default;
  // Empty slots; no memory is taken yet. Error unless all sizes are positive.
  KvCache(const KvCacheSize& size, DType dtype, const KvPages& pages);

  // Before a pass over `lens` tokens of `slots`: takes the pages it needs. Error, with nothing changed, when a slot
  // would exceed its capacity, does not exist or is named twice, or when there are not enough pages.
  void begin_pass(Context& ctx, const Seqlens& lens, const std::vector<int64_t>& slots);
  // The tokens of the pass count as stored.
  void end_pass();
  // Keeps the first `length` tokens of a slot, at most what it has; pages that are not needed any more are free again.
  void truncate(int64_t slot, int64_t length);

  int64_t length(int64_t slot) const { return slots_[static_cast<size_t>(slot)].length; }
  int64_t pages_in_use() const;
  const KvCacheSize& size() const { return size_; }
  DType dtype() const { return dtype_; }

  // What attention_cached() needs of the pass that has begun.
  struct PassTables {
    Seqlens lens;
    bool fresh = true;  // no slot of the pass held anything before
    int64_t longest_k = 0;
    int64_t pages = 0;                 // columns of the table
    const int64_t* targets = nullptr;  // [T] addresses of the new tokens' rows
    const int64_t* zeros = nullptr;    // [B]
    const int64_t* keys = nullptr;     // [B] tokens of a slot, the new ones included
    const int64_t* table = nullptr;    // [B, pages]
    std::vector<int64_t> numbers;      // where these lie on the CPU
    Tensor device_numbers;             // and on a GPU
    std::vector<int64_t> slots;        // [B]
    std::vector<int64_t> key_rows;     // [B + 1] boundaries of the sequences' keys when they stand in one piece
  };
  const PassTables& tables() const { return tables_; }
  AttentionPages pages(int64_t layer) const;

 private:
  struct Slot {
    int64_t length = 0;
    std::vector<Tensor> pages;  // [layers, 2, page_tokens, width]
  };
  void check_pass(const Seqlens& lens, const std::vector<int64_t>& slots) const;
  void take_pages(Context& ctx, const Seqlens& lens, const std::vector<int64_t>& slots);
  int64_t pages_for(int64_t tokens) const { return (tokens + page_tokens_ - 1) / page_tokens_; }

  KvCacheSize size_;
  DType dtype_ = DType::f32;
  int64_t page_tokens_ = 0;
  int64_t max_pages_ = 0;
  std::vector<Slot> slots_;
  PassTables tables_;
};

// In layer `layer` of a cache whose pass has begun: stores k and v [T, K*P] of the new tokens, then causal attention of
// q [T, H*P] over their slots: of a slot with n tokens of which the sequence's m are the last, query i sees the keys
// j <= n - m + i. -> [T, H*P], contiguous.
Tensor attention_cached(Context& ctx, const AttentionShape& shape, const KvCache& cache, int64_t layer, const Tensor& q,
                        const Tensor& k, const Tensor& v);

}  // namespace matvlm
