// Key/value cache: bookkeeping of pages, and the choice of how attention reads them.
#include "autograd/ops/kv_cache.h"

#include <omp.h>

#include <algorithm>
#include <cstring>

#include "autograd/ops/attention_pages_cpu.h"

namespace matvlm {
namespace {

int64_t address(const Tensor& t) { return static_cast<int64_t>(reinterpret_cast<uintptr_t>(t.raw())); }

template <class T>
PageWrite<T> page_write(const KvCache& cache, const AttentionPages& pages, const Tensor& k, const Tensor& v) {
  PageWrite<T> w;
  w.targets = cache.tables().targets;
  w.tokens = k.rows();
  w.width = cache.size().width;
  w.k = k.data<T>();
  w.v = v.data<T>();
  w.k_stride = k.row_stride();
  w.v_stride = v.row_stride();
  w.k_offset = pages.k_offset;
  w.v_offset = pages.v_offset;
  return w;
}

void write_pages_cpu(const PageWrite<float>& w) {
  const auto bytes = static_cast<size_t>(w.width) * sizeof(float);
  for (int64_t t = 0; t < w.tokens; ++t) {
    auto* row = reinterpret_cast<float*>(w.targets[t]);
    std::memcpy(row + w.k_offset, w.k + t * w.k_stride, bytes);
    std::memcpy(row + w.v_offset, w.v + t * w.v_stride, bytes);
  }
}

AttentionRanges paged_ranges(const Context& ctx, const KvCache::PassTables& t) {
  const int64_t* cu = ctx.on_gpu() ? t.lens.device_cu.data<int64_t>() : t.lens.cu.data();
  return {t.lens.batch(), t.lens.longest, t.longest_k, cu, cu + 1, t.zeros, t.keys};
}

template <class T>
AttentionForwardArgs<T, float> paged_args(Context& ctx, const AttentionShape& shape, const KvCache& cache,
                                          const Tensor& q, const Tensor& out) {
  AttentionForwardArgs<T, float> a;
  a.shape = shape;
  a.ranges = paged_ranges(ctx, cache.tables());
  a.tokens = q.rows();
  a.q = q.data<T>();
  a.out = out.data<T>();
  a.q_stride = q.row_stride();
  a.k_stride = a.v_stride = cache.size().width;
  a.out_stride = out.row_stride();
  return a;
}

// Many queries over slots that held tokens before: keys and values in one piece, for the kernels of whole sequences.
void attention_gathered(Context& ctx, const AttentionShape& shape, const KvCache& cache, const AttentionPages& pages,
                        const Tensor& q, const Tensor& out) {
  const KvCache::PassTables& t = cache.tables();
  const int64_t batch = t.lens.batch();
  const Tensor rows = Tensor::from(ctx, t.key_rows, {batch + 1});
  const int64_t* cu = rows.data<int64_t>();
  AttentionRanges ranges = paged_ranges(ctx, t);
  ranges.k_begin = cu;
  ranges.k_end = cu + 1;
  const Tensor k = Tensor::empty(ctx, {t.key_rows.back(), cache.size().width}, cache.dtype());
  const Tensor v = Tensor::empty(ctx, k.shape(), cache.dtype());
  dispatch_float("attention_cached", q.dtype(), [&](auto element) {
    using T = decltype(element);
    gather_pages_cuda(ctx, pages, ranges, cache.size().width, k.data<T>(), v.data<T>());
  });
  attention_into(ctx, shape, ranges, q, k, v, out, Tensor());
}

}  // namespace

KvCache::KvCache(const KvCacheSize& size, DType dtype, const KvPages& pages)
    : size_(size),
      dtype_(dtype),
      page_tokens_(std::min(pages.page_tokens, size.capacity)),
      max_pages_(pages.max_pages),
      slots_(static_cast<size_t>(std::max<int64_t>(size.slots, 0))) {
  check(size.layers > 0 && size.slots > 0 && size.capacity > 0 && size.width > 0, "[kv_cache] found ", size.layers,
        " layers, ", size.slots, " slots of ", size.capacity, " rows of ", size.width,
        " columns, expected positive numbers");
  check(pages.page_tokens > 0 && pages.max_pages >= 0, "[kv_cache] found ", pages.max_pages, " pages of ",
        pages.page_tokens, " tokens, expected pages of one token or more, and 0 or more of them");
}

int64_t KvCache::pages_in_use() const {
  int64_t count = 0;
  for (const Slot& slot : slots_) count += static_cast<int64_t>(slot.pages.size());
  return count;
}

void KvCache::check_pass(const Seqlens& lens, const std::vector<int64_t>& slots) const {
  check(static_cast<int64_t>(slots.size()) == lens.batch(), "[kv_cache] found ", slots.size(), " slots for ",
        lens.batch(), " sequences");
  std::vector<bool> used(slots_.size(), false);
  for (int64_t b = 0; b < lens.batch(); ++b) {
    const int64_t slot = slots[static_cast<size_t>(b)];
    check(slot >= 0 && slot < size_.slots, "[kv_cache] slot: found ", slot, ", expected 0 to ", size_.slots - 1);
    check(!used[static_cast<size_t>(slot)], "[kv_cache] slot ", slot, " is named twice");
    used[static_cast<size_t>(slot)] = true;
    check(length(slot) + lens.length(b) <= size_.capacity, "[kv_cache] slot ", slot, ": found ", length(slot), " + ",
          lens.length(b), " tokens, expected at most its capacity ", size_.capacity);
  }
}

void KvCache::take_pages(Context& ctx, const Seqlens& lens, const std::vector<int64_t>& slots) {
  std::vector<int64_t> takers;  // a slot for each page
  for (int64_t b = 0; b < lens.batch(); ++b) {
    const int64_t slot = slots[static_cast<size_t>(b)];
    const Slot& s = slots_[static_cast<size_t>(slot)];
    const int64_t more = pages_for(s.length + lens.length(b)) - static_cast<int64_t>(s.pages.size());
    takers.insert(takers.end(), static_cast<size_t>(std::max<int64_t>(more, 0)), slot);
  }
  check(max_pages_ == 0 || pages_in_use() + static_cast<int64_t>(takers.size()) <= max_pages_, "[kv_cache] found ",
        pages_in_use(), " pages of ", page_tokens_, " tokens in use and ", takers.size(),
        " more wanted, expected at most ", max_pages_);
  // All of them before the first is handed out: when memory ends here, no slot has changed.
  std::vector<Tensor> pages;
  for (size_t i = 0; i < takers.size(); ++i) {
    pages.push_back(Tensor::empty(ctx, {size_.layers, 2, page_tokens_, size_.width}, dtype_));
  }
  for (size_t i = 0; i < takers.size(); ++i) {
    slots_[static_cast<size_t>(takers[i])].pages.push_back(std::move(pages[i]));
  }
}

void KvCache::begin_pass(Context& ctx, const Seqlens& lens, const std::vector<int64_t>& slots) {
  if (size_.layers == 0) return;
  check_pass(lens, slots);
  take_pages(ctx, lens, slots);
  PassTables t;
  t.lens = lens;
  t.slots = slots;
  t.key_rows = {0};
  const auto batch = static_cast<size_t>(lens.batch());
  std::vector<int64_t> targets, keys;
  const int64_t row_bytes = size_.width * dtype_size(dtype_);
  for (size_t b = 0; b < batch; ++b) {
    const Slot& s = slots_[static_cast<size_t>(slots[b])];
    const int64_t end = s.length + lens.length(static_cast<int64_t>(b));
    t.fresh = t.fresh && (s.length == 0 || end == s.length);
    for (int64_t i = s.length; i < end; ++i) {
      targets.push_back(address(s.pages[static_cast<size_t>(i / page_tokens_)]) + i % page_tokens_ * row_bytes);
    }
    keys.push_back(end);
    t.key_rows.push_back(t.key_rows.back() + end);
    t.longest_k = std::max(t.longest_k, end);
  }
  t.pages = pages_for(t.longest_k);
  // targets | zeros | keys | table
  t.numbers = targets;
  t.numbers.resize(targets.size() + batch, 0);
  t.numbers.insert(t.numbers.end(), keys.begin(), keys.end());
  for (size_t b = 0; b < batch; ++b) {
    const std::vector<Tensor>& pages = slots_[static_cast<size_t>(slots[b])].pages;
    for (size_t i = 0; i < static_cast<size_t>(t.pages); ++i) {
      t.numbers.push_back(i < pages.size() ? address(pages[i]) : 0);
    }
  }
  if (ctx.on_gpu()) t.device_numbers = Tensor::from(ctx, t.numbers, {static_cast<int64_t>(t.numbers.size())});
  const int64_t* base = ctx.on_gpu() ? t.device_numbers.data<int64_t>() : t.numbers.data();
  t.targets = base;
  t.zeros = base + targets.size();
  t.keys = t.zeros + batch;
  t.table = t.keys + batch;
  tables_ = std::move(t);  // the pointers stay: a moved vector keeps its elements where they are
}

void KvCache::end_pass() {
  for (size_t b = 0; b < tables_.slots.size(); ++b) {
    slots_[static_cast<size_t>(tables_.slots[b])].length += tables_.lens.length(static_cast<int64_t>(b));
  }
  tables_ = {};
}

void KvCache::truncate(int64_t slot, int64_t length) {
  if (size_.layers == 0) return;
  check(slot >= 0 && slot < size_.slots, "[kv_cache] slot: found ", slot, ", expected 0 to ", size_.slots - 1);
  Slot& s = slots_[static_cast<size_t>(slot)];
  check(length >= 0 && length <= s.length, "[kv_cache] slot ", slot, ": found ", length,
        " tokens to keep, expected 0 to ", s.length);
  s.length = length;
  s.pages.resize(std::min(s.pages.size(), static_cast<size_t>(pages_for(length))));
}

AttentionPages KvCache::pages(int64_t layer) const {
  const int64_t half = page_tokens_ * size_.width;
  return {tables_.table, tables_.pages, page_tokens_, 2 * layer * half, (2 * layer + 1) * half};
}

Tensor attention_cached(Context& ctx, const AttentionShape& shape, const KvCache& cache, int64_t layer, const Tensor& q,
                        const Tensor& k, const Tensor& v) {
  check_attention_shape("attention_cached", shape);
  check(shape.causal, "[attention_cached] found full attention, expected causal");
  const KvCacheSize& size = cache.size();
  const KvCache::PassTables& t = cache.tables();
  check(layer >= 0 && layer < size.layers, "[attention_cached] layer: found ", layer, ", expected 0 to ",
        size.layers - 1);
  check(!t.slots.empty() || q.rows() == 0, "[attention_cached] found ", q.rows(), " tokens and no pass that has begun");
  check(size.width == shape.kv_heads * shape.head_dim, "[attention_cached] cache width: found ", size.width,
        ", expected ", shape.kv_heads * shape.head_dim);
  const Tensor out = Tensor::empty(ctx, q.shape(), q.dtype());
  if (t.slots.empty()) return out;
  const int64_t tokens = t.lens.tokens();
  check_shape("attention_cached", "q", q, {tokens, shape.heads * shape.head_dim});
  check_shape("attention_cached", "k", k, {tokens, size.width});
  check_shape("attention_cached", "v", v, {tokens, size.width});
  for (const auto& [name, x] : {std::pair{"q", &q}, std::pair{"k", &k}, std::pair{"v", &v}}) {
    check_dtype("attention_cached", name, *x, cache.dtype());
  }
  if (tokens == 0) return out;
  const AttentionPages pages = cache.pages(layer);
  if (ctx.on_gpu()) {
    dispatch_float("attention_cached", q.dtype(),
                   [&](auto element) { write_pages_cuda(ctx, page_write<decltype(element)>(cache, pages, k, v)); });
  } else {
    write_pages_cpu(page_write<float>(cache, pages, k, v));
  }
  if (t.fresh) {  // nothing but what was just stored
    AttentionRanges ranges = paged_ranges(ctx, t);
    ranges.k_begin = ranges.q_begin;
    ranges.k_end = ranges.q_end;
    ranges.longest_k = ranges.longest_q;
    attention_into(ctx, shape, ranges, q, k, v, out, Tensor());
  } else if (!ctx.on_gpu()) {
    const int threads = omp_get_max_threads();
    const Tensor scratch = Tensor::empty(ctx, {threads * t.longest_k}, DType::f32);
    attention_paged_cpu(paged_args<float>(ctx, shape, cache, q, out), pages, scratch.data<float>(), threads);
  } else if (decode_paged_fits(ctx, shape, q.dtype(), t.lens.longest, pages)) {
    decode_paged_cuda(ctx, paged_args<bf16>(ctx, shape, cache, q, out), pages);
  } else {
    attention_gathered(ctx, shape, cache, pages, q, out);
  }
  return out;
}

}  // namespace matvlm
