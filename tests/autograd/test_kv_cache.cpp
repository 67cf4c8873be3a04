// The key/value cache: attention over its pages against whole sequences, the same bits whatever the size of a page,
// pages taken and given back, limits.
#include "autograd/ops/kv_cache.h"

#include <gtest/gtest.h>

#include "core/allocator.h"
#include "tests/autograd/attention_cases.h"
#include "tests/support/errors.h"

namespace matvlm {
namespace {

using namespace matvlm::testing;

// As in test_attention.cpp.
constexpr double kFloatTolerance = 1e-6;
constexpr double kCudaFloatTolerance = 2e-6;
constexpr double kTensorCoreTolerance = 6e-6;  // as in test_attention_bf16.cpp

// Two sequences in slots 2 and 0 of a cache of 3, in layer 1 of 2, fed in pieces; every piece must equal the same rows
// of the full pass. Layer 0 holds other values, which must stay out of it.
class CachedDecode {
 public:
  CachedDecode(Context& ctx, const AttentionCase& c, DType dtype, double tolerance, int64_t page_tokens)
      : ctx_(ctx),
        case_(c),
        dtype_(dtype),
        tolerance_(tolerance),
        page_tokens_(std::min(page_tokens, c.longest())),
        x_(attention_values(c, dtype)),
        full_(raw_forward<double>(c, x_.q, x_.k, x_.v)),
        starts_(c.cu()),
        cache_({2, 3, c.longest(), c.kv_width()}, dtype, {page_tokens, 0}) {}

  // Appends the next counts[b] tokens of the sequences.
  void feed(const std::vector<int64_t>& counts) {
    SCOPED_TRACE(cat(counts[0], ", ", counts[1], " tokens after ", done_[0], ", ", done_[1]));
    cache_.begin_pass(ctx_, *make_seqlens(ctx_, {0, counts[0], counts[0] + counts[1]}), slots_);
    const Tensor q = device_rows(x_.q, counts, case_.width());
    const Tensor k = device_rows(x_.k, counts, case_.kv_width());
    const Tensor v = device_rows(x_.v, counts, case_.kv_width());
    attention_cached(ctx_, case_.shape(), cache_, 0, q, v, k);
    const Tensor out = attention_cached(ctx_, case_.shape(), cache_, 1, q, k, v);
    cache_.end_pass();
    const std::vector<float> found = out.to_floats(ctx_);
    expect_within_rounding(found, next_rows(full_, counts, case_.width()), dtype_, "out", tolerance_);
    outputs_.insert(outputs_.end(), found.begin(), found.end());
    for (size_t b = 0; b < 2; ++b) done_[b] += counts[b];
    expect_lengths();
  }
  void roll_back(int64_t tokens) {
    for (size_t b = 0; b < 2; ++b) {
      done_[b] -= tokens;
      cache_.truncate(slots_[b], done_[b]);
    }
    expect_lengths();
  }
  void reset(size_t b) {
    cache_.truncate(slots_[b], 0);
    done_[b] = 0;
    expect_lengths();
  }
  // All outputs, one after the other.
  const std::vector<float>& run() {
    feed({66, 1});  // a prompt of several tiles beside a single token
    feed({1, 1});
    feed({5, 0});  // several tokens, and a sequence that waits
    feed({0, 40});
    roll_back(3);
    feed({2, 9});
    feed({1, 1});
    feed({17, 2});  // more queries than a tile of the decode kernel
    reset(1);
    feed({1, 3});  // a fresh sequence beside a running one, in pages that were another's
    feed({0, 30});
    return outputs_;
  }
  // Prompts of most of the sequences, so that later passes split many keys; lengths of at least 70.
  const std::vector<float>& run_long() {
    feed({case_.lengths[0] - 60, case_.lengths[1] - 60});
    feed({1, 1});
    feed({16, 3});
    roll_back(2);
    feed({1, 0});
    feed({17, 20});
    return outputs_;
  }

 private:
  void expect_lengths() const {
    EXPECT_EQ(cache_.length(1), 0);
    int64_t pages = 0;
    for (size_t b = 0; b < 2; ++b) {
      EXPECT_EQ(cache_.length(slots_[b]), done_[b]);
      pages += (done_[b] + page_tokens_ - 1) / page_tokens_;
    }
    EXPECT_EQ(cache_.pages_in_use(), pages);
  }
  std::vector<double> next_rows(const std::vector<double>& x, const std::vector<int64_t>& counts, int64_t width) const {
    std::vector<double> rows;
    for (size_t b = 0; b < 2; ++b) {
      const auto first = x.begin() + (starts_[b] + done_[b]) * width;
      rows.insert(rows.end(), first, first + counts[b] * width);
    }
    return rows;
  }
  Tensor device_rows(const std::vector<double>& x, const std::vector<int64_t>& counts, int64_t width) const {
    return Tensor::from_floats(ctx_, convert<float>(next_rows(x, counts, width)), {counts[0] + counts[1], width},
                               dtype_);
  }

  Context& ctx_;
  AttentionCase case_;
  DType dtype_;
  double tolerance_;
  int64_t page_tokens_;
  AttentionValues x_;
  std::vector<double> full_;
  std::vector<int64_t> starts_;
  std::vector<int64_t> slots_ = {2, 0};
  std::vector<int64_t> done_ = {0, 0};
  std::vector<float> outputs_;
  KvCache cache_;
};

constexpr int64_t kOnePage = 1 << 20;  // a slot's rows are contiguous then
const AttentionCase kCase = {"cache", {95, 70}, 4, 2, 16, true};

// The cache does not change what is computed: key by key in the same order on the CPU.
TEST(KvCache, EveryPageSizeGivesTheBitsOfOnePage) {
  const std::vector<float> contiguous = CachedDecode(cpu(), kCase, DType::f32, kFloatTolerance, kOnePage).run();
  for (const int64_t page_tokens : {1, 7, 16, 64, 95}) {
    SCOPED_TRACE(page_tokens);
    EXPECT_EQ(CachedDecode(cpu(), kCase, DType::f32, kFloatTolerance, page_tokens).run(), contiguous);
  }
}

TEST(KvCache, OneKeyHeadAndOddWidths) {
  for (const AttentionCase& c : {AttentionCase{"one key head", {95, 70}, 3, 1, 20, true},
                                 AttentionCase{"every head its own", {100, 90}, 2, 2, 72, true}}) {
    CachedDecode(cpu(), c, DType::f32, kFloatTolerance, 64).run();
  }
}

// One pass of `counts` tokens of zeros over `slots`.
void append(KvCache& cache, std::vector<int64_t> counts, const std::vector<int64_t>& slots) {
  std::vector<int64_t> cu = {0};
  for (const int64_t n : counts) cu.push_back(cu.back() + n);
  cache.begin_pass(cpu(), *make_seqlens(cpu(), cu), slots);
  cache.end_pass();
}

TEST(KvCache, MemoryIsThatOfWhatIsStored) {
  constexpr int64_t kPageBytes = 3 * 2 * 8 * 64 * 4;  // layers, k and v, tokens, columns, bytes: a class of its own
  const auto used = [] { return cpu().allocator()->stats().current; };
  const int64_t before = used();
  {
    KvCache cache({3, 1000, 2000, 64}, DType::f32, {8, 0});
    EXPECT_EQ(used(), before) << "1000 empty slots";
    append(cache, {20, 1}, {999, 4});
    EXPECT_EQ(cache.pages_in_use(), 4);
    cache.truncate(999, 17);
    EXPECT_EQ(cache.pages_in_use(), 4);
    cache.truncate(999, 16);
    EXPECT_EQ(cache.pages_in_use(), 3);
    append(cache, {1}, {4});
    EXPECT_EQ(cache.pages_in_use(), 3);
    EXPECT_EQ(used(), before + 3 * kPageBytes);
    cache.truncate(4, 0);
    EXPECT_EQ(used(), before + 2 * kPageBytes);
  }
  EXPECT_EQ(used(), before);
}

TEST(KvCache, ExhaustionIsAnErrorThatChangesNothing) {
  KvCache cache({1, 3, 100, 8}, DType::f32, {10, 6});
  append(cache, {31, 10}, {0, 1});
  EXPECT_EQ(error_of([&] {
              append(cache, {9, 1, 1}, {0, 1, 2});
            }),
            "[kv_cache] found 5 pages of 10 tokens in use and 2 more wanted, expected at most 6");
  EXPECT_EQ(cache.pages_in_use(), 5);
  EXPECT_EQ(cache.length(0), 31);
  append(cache, {9, 1}, {0, 1});  // the last page
  EXPECT_EQ(error_of([&] { append(cache, {1}, {2}); }),
            "[kv_cache] found 6 pages of 10 tokens in use and 1 more wanted, expected at most 6");
  cache.truncate(0, 0);
  append(cache, {40}, {2});
  EXPECT_EQ(cache.pages_in_use(), 6);
}

// When memory ends in the middle of a pass's pages, no slot has any of them.
TEST(KvCache, OutOfMemoryChangesNothing) {
  const std::unique_ptr<Context> ctx = make_cpu_context(0);
  KvCache cache({1, 2, 100000, 1024}, DType::f32, {64, 0});
  ctx->allocator()->set_limit(3 << 20);  // pages are of 512 KiB
  const auto begin = [&](int64_t tokens) { cache.begin_pass(*ctx, *make_seqlens(*ctx, {0, 64, 64 + tokens}), {0, 1}); };
  EXPECT_NE(error_of([&] { begin(64000); }).find("[allocator cpu] out of memory"), std::string::npos);
  EXPECT_EQ(cache.pages_in_use(), 0);
  begin(64);
  EXPECT_EQ(cache.pages_in_use(), 2);
}

// A pass that failed half-way is begun again.
TEST(KvCache, APassThatDidNotEndCountsForNothing) {
  KvCache cache({1, 2, 100, 8}, DType::f32, {10, 0});
  append(cache, {5}, {0});
  cache.begin_pass(cpu(), *make_seqlens(cpu(), {0, 30}), {0});
  append(cache, {6}, {0});
  EXPECT_EQ(cache.length(0), 11);
  cache.truncate(0, 9);
  EXPECT_EQ(cache.pages_in_use(), 1);
}

TEST(KvCache, Errors) {
  KvCache cache({1, 2, 4, 8}, DType::f32, {});
  append(cache, {3}, {1});
  EXPECT_EQ(error_of([&] { append(cache, {3}, {1}); }),
            "[kv_cache] slot 1: found 3 + 3 tokens, expected at most its capacity 4");
  EXPECT_EQ(cache.length(1), 3);
  EXPECT_EQ(error_of([&] { append(cache, {3}, {2}); }), "[kv_cache] slot: found 2, expected 0 to 1");
  EXPECT_EQ(error_of([&] { append(cache, {1, 2}, {0, 0}); }), "[kv_cache] slot 0 is named twice");
  EXPECT_EQ(error_of([&] { append(cache, {3}, {0, 1}); }), "[kv_cache] found 2 slots for 1 sequences");
  EXPECT_EQ(error_of([&] { cache.truncate(1, 4); }), "[kv_cache] slot 1: found 4 tokens to keep, expected 0 to 3");
  EXPECT_EQ(error_of([&] { cache.truncate(2, 0); }), "[kv_cache] slot: found 2, expected 0 to 1");

  const AttentionShape shape{2, 1, 8, true, 1.0};
  const Tensor q = Tensor::zeros(cpu(), {3, 16}, DType::f32);
  const Tensor k = Tensor::zeros(cpu(), {3, 8}, DType::f32);
  const auto attend = [&](const AttentionShape& s, int64_t layer, const Tensor& queries, const Tensor& keys) {
    return error_of([&] { attention_cached(cpu(), s, cache, layer, queries, keys, k); });
  };
  EXPECT_EQ(attend(shape, 0, q, k), "[attention_cached] found 3 tokens and no pass that has begun");
  cache.begin_pass(cpu(), *make_seqlens(cpu(), {0, 3}), {0});
  EXPECT_EQ(attend({2, 1, 8, false, 1.0}, 0, q, k), "[attention_cached] found full attention, expected causal");
  EXPECT_EQ(attend(shape, 1, q, k), "[attention_cached] layer: found 1, expected 0 to 0");
  EXPECT_EQ(attend({2, 2, 8, true, 1.0}, 0, q, k), "[attention_cached] cache width: found 8, expected 16");
  EXPECT_EQ(attend(shape, 0, k, k), "[attention_cached] q: found [3, 8], expected [3, 16]");
  EXPECT_EQ(attend(shape, 0, q, q), "[attention_cached] k: found [3, 16], expected [3, 8]");
  EXPECT_EQ(attend(shape, 0, q, Tensor::zeros(cpu(), {3, 8}, DType::bf16)),
            "[attention_cached] k: found bf16, expected f32");

  EXPECT_EQ(error_of([&] {
              KvCache({1, 2, 0, 8}, DType::f32, {});
            }),
            "[kv_cache] found 1 layers, 2 slots of 0 rows of 8 columns, expected positive numbers");
  EXPECT_EQ(error_of([&] {
              KvCache({1, 2, 4, 8}, DType::f32, {0, 0});
            }),
            "[kv_cache] found 0 pages of 0 tokens, expected pages of one token or more, and 0 or more of them");
}

// ---- CUDA ----

// Pages of 10 and 7 tokens are gathered, those of 16 and 64 go through the table of the decode kernel.
TEST(KvCacheCuda, DecodeEqualsFullForward) {
  const std::unique_ptr<Context> ctx = new_cuda();
  for (const int64_t page_tokens : {int64_t{7}, int64_t{16}, int64_t{64}, kOnePage}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(cat(page_tokens, " ", dtype_name(dtype)));
      const double tolerance = dtype == DType::bf16 ? kTensorCoreTolerance : kCudaFloatTolerance;
      CachedDecode(*ctx, kCase, dtype, tolerance, page_tokens).run();
    }
  }
}

// Tiles, splits and their order are those of the keys, wherever these lie.
TEST(KvCacheCuda, PagesGiveTheBitsOfOnePage) {
  const std::unique_ptr<Context> ctx = new_cuda();
  for (const AttentionCase& c :
       {kCase, AttentionCase{"P 20", {1500, 800}, 8, 2, 20, true}, AttentionCase{"P 64", {700, 1100}, 6, 1, 64, true},
        AttentionCase{"P 72", {900, 70}, 4, 4, 72, true}, AttentionCase{"P 80", {2000, 640}, 4, 4, 80, true},
        AttentionCase{"P 128", {300, 1300}, 16, 2, 128, true}}) {
    SCOPED_TRACE(c.name);
    const auto outputs = [&](int64_t page_tokens) {
      return CachedDecode(*ctx, c, DType::bf16, kTensorCoreTolerance, page_tokens).run_long();
    };
    const std::vector<float> contiguous = outputs(kOnePage);
    for (const int64_t page_tokens : {16, 64, 112}) EXPECT_EQ(outputs(page_tokens), contiguous) << page_tokens;
  }
}

}  // namespace
}  // namespace matvlm
