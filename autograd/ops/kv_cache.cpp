// Key/value cache: bookkeeping and copies on the host side, attention by the ops of attention.h.
#include "autograd/ops/kv_cache.h"

#include <algorithm>

namespace matvlm {
namespace {

// `slots` fits lens and the cache, and no slot is named twice.
void check_slots(const char* op, const KvCache& cache, const SeqlensPtr& lens, const std::vector<int64_t>& slots) {
  const auto count = static_cast<int64_t>(cache.length.size());
  check(static_cast<int64_t>(slots.size()) == lens->batch(), "[", op, "] found ", slots.size(), " slots for ",
        lens->batch(), " sequences");
  std::vector<bool> used(cache.length.size(), false);
  for (const int64_t slot : slots) {
    check(slot >= 0 && slot < count, "[", op, "] slot: found ", slot, ", expected 0 to ", count - 1);
    check(!used[static_cast<size_t>(slot)], "[", op, "] slot ", slot, " is named twice");
    used[static_cast<size_t>(slot)] = true;
  }
}

void copy_rows(Context& ctx, const Tensor& src, int64_t src_row, const Tensor& dst, int64_t dst_row, int64_t rows) {
  const int64_t size = dtype_size(src.dtype());
  const char* from = static_cast<const char*>(src.raw()) + src_row * src.row_stride() * size;
  char* to = static_cast<char*>(dst.raw()) + dst_row * dst.row_stride() * size;
  ctx.copy_2d(to, dst.row_stride() * size, from, src.row_stride() * size, src.cols() * size, rows);
}

}  // namespace

KvCache make_kv_cache(Context& ctx, int64_t slots, int64_t capacity, int64_t kv_width, DType dtype) {
  check(slots > 0 && capacity > 0 && kv_width > 0, "[kv_cache] found ", slots, " slots of ", capacity, " rows of ",
        kv_width, " columns, expected positive numbers");
  KvCache cache;
  cache.k = Tensor::empty(ctx, {slots, capacity, kv_width}, dtype);
  cache.v = Tensor::empty(ctx, {slots, capacity, kv_width}, dtype);
  cache.capacity = capacity;
  cache.length.assign(static_cast<size_t>(slots), 0);
  return cache;
}

void kv_append(Context& ctx, KvCache& cache, const Tensor& k_new, const Tensor& v_new, const SeqlensPtr& lens,
               const std::vector<int64_t>& slots) {
  check_slots("kv_append", cache, lens, slots);
  const Shape expected = {lens->tokens(), cache.k.cols()};
  check_shape("kv_append", "k", k_new, expected);
  check_shape("kv_append", "v", v_new, expected);
  check_dtype("kv_append", "k", k_new, cache.k.dtype());
  check_dtype("kv_append", "v", v_new, cache.v.dtype());
  for (int64_t b = 0; b < lens->batch(); ++b) {
    const int64_t slot = slots[static_cast<size_t>(b)];
    const int64_t stored = cache.length[static_cast<size_t>(slot)];
    check(stored + lens->length(b) <= cache.capacity, "[kv_append] slot ", slot, ": found ", stored, " + ",
          lens->length(b), " tokens, expected at most its capacity ", cache.capacity);
  }
  for (int64_t b = 0; b < lens->batch(); ++b) {
    const int64_t slot = slots[static_cast<size_t>(b)];
    int64_t& stored = cache.length[static_cast<size_t>(slot)];
    const int64_t first = lens->cu[static_cast<size_t>(b)];
    copy_rows(ctx, k_new, first, cache.k, slot * cache.capacity + stored, lens->length(b));
    copy_rows(ctx, v_new, first, cache.v, slot * cache.capacity + stored, lens->length(b));
    stored += lens->length(b);
  }
}

Tensor attention_cached(Context& ctx, const AttentionShape& shape, const Tensor& q, const KvCache& cache,
                        const SeqlensPtr& lens, const std::vector<int64_t>& slots) {
  check_attention_shape("attention_cached", shape);
  check(shape.causal, "[attention_cached] found full attention, expected causal");
  check_slots("attention_cached", cache, lens, slots);
  check_shape("attention_cached", "q", q, {lens->tokens(), shape.heads * shape.head_dim});
  check_dtype("attention_cached", "q", q, cache.k.dtype());
  check(cache.k.cols() == shape.kv_heads * shape.head_dim, "[attention_cached] cache width: found ", cache.k.cols(),
        ", expected ", shape.kv_heads * shape.head_dim);
  const size_t batch = slots.size();
  std::vector<int64_t> key_rows(2 * batch);  // first rows, then ends
  int64_t longest = 0;
  for (size_t b = 0; b < batch; ++b) {
    const int64_t stored = cache.length[static_cast<size_t>(slots[b])];
    const int64_t fresh = lens->length(static_cast<int64_t>(b));
    check(fresh <= stored, "[attention_cached] slot ", slots[b], ": found ", fresh, " queries over ", stored,
          " stored tokens");
    key_rows[b] = slots[b] * cache.capacity;
    key_rows[batch + b] = key_rows[b] + stored;
    longest = std::max(longest, stored);
  }
  const Tensor out = Tensor::empty(ctx, q.shape(), q.dtype());
  const Tensor rows = Tensor::from(ctx, key_rows, {static_cast<int64_t>(key_rows.size())});
  const int64_t* begin = rows.data<int64_t>();
  const int64_t* cu = ctx.on_gpu() ? lens->device_cu.data<int64_t>() : lens->cu.data();
  const AttentionRanges ranges{lens->batch(), lens->longest, longest, cu, cu + 1, begin, begin + batch};
  attention_into(ctx, shape, ranges, q, cache.k, cache.v, out, Tensor());
  return out;
}

}  // namespace matvlm
