// bf16 attention on a GPU, every family of kernels, by flash-attention's rule: at most twice the error of the double
// oracle that rounds to bf16 what has to be stored as bf16, and what float32 adds between.
#include <gtest/gtest.h>

#include "tests/autograd/attention_cases.h"

namespace matvlm {
namespace {

using namespace matvlm::testing;

// P products and then the keys are added in float32, in tensor cores with truncation: sqrt(1500) * 2^-23 = 5e-6.
constexpr double kFloatTolerance = 6e-6;

struct Options {
  bool portable = false;
  int64_t shift = 0;  // columns before everything: 1 makes every address odd, so that no wide access is aligned
  bool accumulate = false;
  int64_t rotary_dims = 0;  // q and k count as rotated
};

// The widths between the cases of attention_cases(), and lengths around the tiles of 64, 128 and 192 rows.
std::vector<AttentionCase> bf16_cases() {
  std::vector<AttentionCase> cases = attention_cases();
  const auto add = [&](std::vector<int64_t> lengths, int64_t heads, int64_t kv_heads, int64_t head_dim, bool causal) {
    std::string name = causal ? "causal" : "full";
    for (const int64_t n : lengths) name += cat(" ", n);
    cases.push_back({cat(name, " x ", head_dim), lengths, heads, kv_heads, head_dim, causal});
  };
  add({129}, 2, 1, 8, true);
  add({127, 3}, 2, 2, 12, false);
  add({66, 31}, 3, 1, 28, true);
  add({193}, 2, 2, 32, false);
  add({191, 70}, 2, 1, 40, true);
  add({128, 129}, 2, 2, 48, true);
  add({100, 257}, 4, 2, 56, false);
  add({512}, 1, 1, 64, true);
  add({384, 385, 1}, 4, 4, 64, false);
  add({1, 128, 127}, 2, 1, 68, true);
  add({729}, 2, 2, 72, false);
  add({700, 5, 320}, 4, 4, 80, true);
  add({641}, 8, 1, 80, true);
  add({130, 1, 1, 62}, 2, 2, 80, false);
  add({200}, 2, 1, 88, true);
  add({449, 63}, 3, 3, 96, true);
  add({300}, 2, 2, 96, false);
  add({150}, 2, 1, 100, true);
  add({260}, 1, 1, 104, false);
  add({333, 12}, 2, 2, 112, true);
  add({90}, 2, 1, 120, true);
  add({140}, 2, 2, 124, false);
  add({600, 65}, 4, 2, 128, true);
  add({385}, 2, 2, 128, false);
  add({192, 577}, 2, 2, 80, true);
  add({576, 1, 193}, 2, 1, 64, true);
  add({320, 192}, 2, 2, 80, false);
  return cases;
}

struct Bf16Result {
  std::vector<float> out, lse, dq, dk, dv;
  bool operator==(const Bf16Result&) const = default;
};

// What the gradients start as when they are accumulated.
AttentionValues start_values(const AttentionCase& c) {
  AttentionCase other = c;
  other.name += "start";
  return attention_values(other, DType::bf16);
}

Tensor upload(Context& ctx, const std::vector<double>& values, int64_t rows, int64_t shift) {
  const int64_t cols = static_cast<int64_t>(values.size()) / rows;
  const Tensor t = Tensor::empty(ctx, {rows, shift + cols}, DType::bf16).slice_cols(shift, shift + cols);
  t.copy_from(ctx, Tensor::from_floats(ctx, convert<float>(values), {rows, cols}, DType::bf16));
  return t;
}

// q, k and v are column ranges of one tensor, as where one projection makes them.
struct Projection {
  Tensor q, k, v;
  Projection(Context& ctx, const AttentionCase& c, const AttentionValues& x, int64_t shift) {
    const int64_t width = c.width();
    const int64_t kv = c.kv_width();
    const Tensor all = Tensor::empty(ctx, {c.tokens(), shift + width + 2 * kv}, DType::bf16);
    q = all.slice_cols(shift, shift + width);
    k = all.slice_cols(shift + width, shift + width + kv);
    v = all.slice_cols(shift + width + kv, shift + width + 2 * kv);
    q.copy_from(ctx, upload(ctx, x.q, c.tokens(), 0));
    k.copy_from(ctx, upload(ctx, x.k, c.tokens(), 0));
    v.copy_from(ctx, upload(ctx, x.v, c.tokens(), 0));
  }
};

void set(bf16*& pointer, int64_t& stride, const Tensor& t) {
  pointer = t.data<bf16>();
  stride = t.row_stride();
}
void set(const bf16*& pointer, int64_t& stride, const Tensor& t) {
  pointer = t.data<bf16>();
  stride = t.row_stride();
}

// The rotation of a case, with the table that the forward's kernel writes.
RotaryTurn turn_of(Context& ctx, const AttentionCase& c, int64_t rotary_dims) {
  if (rotary_dims == 0) return {};
  Graph g(ctx);
  const Var x = g.input(Tensor::zeros(ctx, {c.tokens(), rotary_dims}, DType::bf16));
  return turn_in_place(g, x, 1, rotary_dims, frequencies_of(rotary_dims),
                       Tensor::from(ctx, positions_of(c), {c.tokens()}));
}

Bf16Result run(Context& ctx, const AttentionCase& c, const AttentionValues& x, const Options& options) {
  const int64_t tokens = c.tokens();
  const Projection in(ctx, c, x, options.shift);
  const AttentionValues start = start_values(c);
  const Tensor grad_out = upload(ctx, x.grad_out, tokens, options.shift);
  const Tensor out = upload(ctx, x.q, tokens, options.shift);
  const Tensor dq = upload(ctx, start.q, tokens, options.shift);
  const Tensor dk = upload(ctx, start.k, tokens, options.shift);
  const Tensor dv = upload(ctx, start.v, tokens, options.shift);
  const Tensor lse = Tensor::empty(ctx, {c.heads, tokens}, DType::f32);
  const Tensor delta = Tensor::empty(ctx, {c.heads, tokens}, DType::f32);
  const SeqlensPtr lens = make_seqlens(ctx, c.cu());
  const int64_t* cu = lens->device_cu.data<int64_t>();
  AttentionBackwardArgs<bf16, float> a;
  a.forward.shape = c.shape();
  a.forward.ranges = {lens->batch(), lens->longest, lens->longest, cu, cu + 1, cu, cu + 1};
  a.forward.tokens = tokens;
  a.forward.kv_rows = tokens;
  a.forward.portable = options.portable;
  set(a.forward.q, a.forward.q_stride, in.q);
  set(a.forward.k, a.forward.k_stride, in.k);
  set(a.forward.v, a.forward.v_stride, in.v);
  set(a.forward.out, a.forward.out_stride, out);
  set(a.grad_out, a.grad_out_stride, grad_out);
  set(a.dq, a.dq_stride, dq);
  set(a.dk, a.dk_stride, dk);
  set(a.dv, a.dv_stride, dv);
  a.forward.lse = lse.data<float>();
  a.delta = delta.data<float>();
  a.accumulate_dq = a.accumulate_dk = a.accumulate_dv = options.accumulate;
  const RotaryTurn turned = turn_of(ctx, c, options.rotary_dims);
  a.turned = turned.angles();
  attention_forward_cuda(ctx, a.forward);
  attention_backward_cuda(ctx, a);
  return {out.to_floats(ctx), lse.to_floats(ctx), dq.to_floats(ctx), dk.to_floats(ctx), dv.to_floats(ctx)};
}

// [H, T] in double.
std::vector<double> exact_lse(const AttentionCase& c, const AttentionValues& x) {
  const std::vector<int64_t> cu = c.cu();
  const int threads = oracle_threads();
  std::vector<double> out(x.q.size());
  std::vector<double> lse(static_cast<size_t>(c.heads * c.tokens()));
  const auto args = forward_args<double>(c, cu, x.q.data(), x.k.data(), x.v.data(), out.data(), lse.data());
  std::vector<double> scratch(static_cast<size_t>(attention_scratch_cpu(args.ranges, 1, threads)));
  attention_forward_cpu(args, scratch.data(), threads);
  return lse;
}

std::vector<double> sum(std::vector<double> x, const std::vector<double>& y) {
  for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  return x;
}

// tolerance: what float32 arithmetic may add, relative.
void expect_close(const AttentionCase& c, const AttentionValues& x, const Bf16Result& found, bool accumulated,
                  double tolerance, int64_t rotary_dims = 0) {
  auto exact = raw_gradients<double>(c, x);
  auto rounded = raw_gradients<double>(c, x, true);
  if (rotary_dims > 0) {
    for (std::vector<double>* gradient : {&exact.dq, &exact.dk, &rounded.dq, &rounded.dk}) {
      *gradient = turned_back(c, rotary_dims, *gradient);
    }
  }
  const AttentionValues start = start_values(c);
  const auto compare = [&](const std::vector<float>& result, std::vector<double> expected, std::vector<double> in_bf16,
                           const std::vector<double>& begin, bool adds, const char* what) {
    if (adds) {
      expected = sum(expected, begin);
      in_bf16 = sum(in_bf16, begin);
    }
    // Where the gradient is 0, the output of a single key is its v, exactly: nothing was rounded.
    const double rounding = is_zero_gradient(expected, x) ? 0 : relative_error(round_bf16(in_bf16), expected);
    expect_float_close(result, expected, x, 2 * rounding + tolerance, what);
  };
  compare(found.out, exact.out, rounded.out, start.q, false, "out");
  compare(found.dq, exact.dq, rounded.dq, start.q, accumulated, "dq");
  compare(found.dk, exact.dk, rounded.dk, start.k, accumulated, "dk");
  compare(found.dv, exact.dv, rounded.dv, start.v, accumulated, "dv");
  // lse is a logit, itself a sum of P products: off by 2^-23 times the size of its terms, at least that of 1.
  const std::vector<double> lse = exact_lse(c, x);
  double largest = 1;
  for (const double value : lse) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < lse.size(); ++i) {
    ASSERT_NEAR(static_cast<double>(found.lse[i]), lse[i], 2e-6 * largest + 2e-6) << "lse " << i;
  }
}

class AttentionBf16Cuda : public ::testing::TestWithParam<AttentionCase> {
 protected:
  void check(const Options& options) {
    const AttentionCase& c = GetParam();
    const std::unique_ptr<Context> ctx = new_cuda();
    const AttentionValues x = attention_values(c, DType::bf16);
    const Bf16Result found = run(*ctx, c, x, options);
    expect_close(c, x, found, options.accumulate, kFloatTolerance);
    EXPECT_EQ(run(*ctx, c, x, options), found) << "second run";
  }
};
INSTANTIATE_TEST_SUITE_P(Cases, AttentionBf16Cuda, ::testing::ValuesIn(bf16_cases()));

TEST_P(AttentionBf16Cuda, Aligned) { check({}); }
TEST_P(AttentionBf16Cuda, AlignedPortable) { check({.portable = true}); }
TEST_P(AttentionBf16Cuda, Unaligned) { check({.shift = 1}); }
TEST_P(AttentionBf16Cuda, HalfAligned) { check({.shift = 2}); }
TEST_P(AttentionBf16Cuda, AlignedLater) { check({.shift = 8}); }
TEST_P(AttentionBf16Cuda, Accumulates) { check({.accumulate = true}); }
TEST_P(AttentionBf16Cuda, AccumulatesPortable) { check({.portable = true, .accumulate = true}); }

struct TurnedCase {
  AttentionCase attention;
  int64_t rotary_dims;
};

// Lengths around the tiles, packed rows, grouped keys; dims that the Hopper kernels turn back and others.
std::vector<TurnedCase> turned_cases() {
  std::vector<TurnedCase> cases;
  const auto add = [&](std::vector<int64_t> lengths, int64_t heads, int64_t kv_heads, int64_t head_dim, bool causal,
                       int64_t dims) {
    std::string name = cat(dims, " of ", head_dim, causal ? " causal" : " full");
    for (const int64_t n : lengths) name += cat(" ", n);
    cases.push_back({{name, std::move(lengths), heads, kv_heads, head_dim, causal}, dims});
  };
  add({700, 5, 320}, 4, 4, 80, true, 32);
  add({192, 577}, 2, 2, 80, true, 32);
  add({641}, 8, 1, 80, true, 32);
  add({2, 128, 127, 1}, 4, 2, 80, true, 32);
  add({130, 62}, 2, 2, 80, false, 32);
  add({17}, 2, 2, 80, true, 32);
  add({500, 33}, 2, 1, 72, true, 32);
  add({385, 2, 64}, 4, 2, 64, true, 64);
  add({449, 63}, 3, 3, 96, true, 96);
  add({333, 12}, 2, 1, 128, true, 128);
  add({200, 65}, 2, 2, 80, true, 80);
  add({200, 65}, 2, 2, 80, true, 20);
  add({90, 70}, 2, 1, 32, true, 16);
  add({9}, 2, 2, 80, true, 32);
  return cases;
}

TEST(AttentionBf16CudaNode, GradientsFromBeforeARotation) {
  const std::unique_ptr<Context> ctx = new_cuda();
  for (const auto& [c, dims] : turned_cases()) {
    const AttentionValues x = attention_values(c, DType::bf16);
    for (const Options& options : {Options{.rotary_dims = dims}, Options{.portable = true, .rotary_dims = dims},
                                   Options{.shift = 1, .rotary_dims = dims}}) {
      SCOPED_TRACE(cat(c.name, options.portable ? " portable" : "", " shift ", options.shift));
      const Bf16Result found = run(*ctx, c, x, options);
      expect_close(c, x, found, false, kFloatTolerance, dims);
      EXPECT_EQ(run(*ctx, c, x, options), found) << "second run";
      // Turned back after the kernels: rounded to bf16 once more, 2^-9; the rest is the same.
      Options apart = options;
      apart.rotary_dims = 0;
      const Bf16Result before = run(*ctx, c, x, apart);
      EXPECT_EQ(found.out, before.out);
      EXPECT_EQ(found.dv, before.dv);
      EXPECT_LE(relative_error(found.dq, round_bf16(turned_back(c, dims, convert<double>(before.dq)))), 0x1p-8);
      EXPECT_LE(relative_error(found.dk, round_bf16(turned_back(c, dims, convert<double>(before.dk)))), 0x1p-8);
      EXPECT_GT(relative_error(found.dq, before.dq), 0.1);
    }
  }
}

TEST(AttentionBf16CudaNode, GradientsFromBeforeARotationAreNotAdded) {
  const std::unique_ptr<Context> ctx = new_cuda();
  const AttentionCase c{"turned", {40}, 2, 2, 80, true};
  std::string message = "no error";
  try {
    run(*ctx, c, attention_values(c, DType::bf16), {.accumulate = true, .rotary_dims = 32});
  } catch (const Error& e) {
    message = e.what();
  }
  EXPECT_EQ(message,
            "[attention] gradients from before a rotation: found 40 rows of keys for 40 of queries and "
            "gradients to add to, expected as many and none");
}

// Logits up to +-1e4: float32 itself rounds them and the log-sum-exp by up to 2^-24 * 1e4 = 6e-4 each, twice on the way
// to base 2, and a probability changes by that factor.
TEST(AttentionBf16CudaNode, LargeLogits) {
  const std::unique_ptr<Context> ctx = new_cuda();
  for (const int64_t head_dim : {64, 72, 80, 128}) {
    for (const bool causal : {true, false}) {
      const AttentionCase c{cat("large ", head_dim), {200, 1, 65, 140}, 3, 1, head_dim, causal};
      const AttentionValues x = attention_values(c, DType::bf16, 3000.0);
      for (const bool portable : {false, true}) {
        SCOPED_TRACE(cat(c.name, causal ? " causal" : " full", portable ? " portable" : ""));
        expect_close(c, x, run(*ctx, c, x, {.portable = portable}), false, 3e-3);
      }
    }
  }
}

// Queries that continue a cache whose unused rows are NaN: one or a few (split over the keys), and a longer piece.
struct CacheCase {
  std::vector<int64_t> queries, keys;
  int64_t heads, kv_heads, head_dim;
  bool causal;
};

void check_cache(Context& ctx, const CacheCase& c, bool portable) {
  constexpr int64_t kSpare = 70;  // rows between the sequences' keys
  std::vector<int64_t> q_cu = {0};
  std::vector<int64_t> k_begin, k_end;
  int64_t rows = 3;
  for (size_t b = 0; b < c.keys.size(); ++b) {
    q_cu.push_back(q_cu.back() + c.queries[b]);
    k_begin.push_back(rows);
    k_end.push_back(rows + c.keys[b]);
    rows += c.keys[b] + kSpare;
  }
  const auto batch = static_cast<int64_t>(c.keys.size());
  const int64_t tokens = q_cu.back();
  const int64_t width = c.heads * c.head_dim;
  const int64_t kv_width = c.kv_heads * c.head_dim;
  const auto values = [&](const char* name, int64_t n) { return round_bf16(random_values(name, n)); };
  const std::vector<double> q = values("q", tokens * width);
  std::vector<double> k = values("k", rows * kv_width);
  std::vector<double> v = values("v", rows * kv_width);
  for (int64_t row = 0, b = 0; row < rows; ++row) {
    if (b < batch && row == k_end[static_cast<size_t>(b)]) ++b;
    if (b < batch && row >= k_begin[static_cast<size_t>(b)]) continue;
    std::fill_n(k.begin() + row * kv_width, kv_width, std::numeric_limits<double>::quiet_NaN());
    std::fill_n(v.begin() + row * kv_width, kv_width, std::numeric_limits<double>::quiet_NaN());
  }
  const AttentionCase shape_of{"cache", {1}, c.heads, c.kv_heads, c.head_dim, c.causal};

  AttentionForwardArgs<double, double> exact;
  exact.shape = shape_of.shape();
  const int64_t longest_q = *std::max_element(c.queries.begin(), c.queries.end());
  const int64_t longest_k = *std::max_element(c.keys.begin(), c.keys.end());
  exact.ranges = {batch, longest_q, longest_k, q_cu.data(), q_cu.data() + 1, k_begin.data(), k_end.data()};
  exact.tokens = tokens;
  exact.kv_rows = rows;
  std::vector<double> exact_out(q.size());
  std::vector<double> lse(static_cast<size_t>(c.heads * tokens));
  exact.q = q.data();
  exact.k = k.data();
  exact.v = v.data();
  exact.out = exact_out.data();
  exact.q_stride = exact.out_stride = width;
  exact.k_stride = exact.v_stride = kv_width;
  exact.lse = lse.data();
  const int threads = oracle_threads();
  std::vector<double> scratch(static_cast<size_t>(attention_scratch_cpu(exact.ranges, 1, threads)));
  attention_forward_cpu(exact, scratch.data(), threads);

  std::vector<int64_t> device_rows = q_cu;
  device_rows.insert(device_rows.end(), k_begin.begin(), k_begin.end());
  device_rows.insert(device_rows.end(), k_end.begin(), k_end.end());
  const Tensor ranges = Tensor::from(ctx, device_rows, {static_cast<int64_t>(device_rows.size())});
  const int64_t* begin = ranges.data<int64_t>();
  const Tensor q_device = upload(ctx, q, tokens, 0);
  const Tensor k_device = upload(ctx, k, rows, 0);
  const Tensor v_device = upload(ctx, v, rows, 0);
  const Tensor out = Tensor::empty(ctx, {tokens, width}, DType::bf16);
  const Tensor out_lse = Tensor::empty(ctx, {c.heads, tokens}, DType::f32);
  AttentionForwardArgs<bf16, float> a;
  a.shape = exact.shape;
  a.ranges = {batch, longest_q, longest_k, begin, begin + 1, begin + batch + 1, begin + 2 * batch + 1};
  a.tokens = tokens;
  a.kv_rows = rows;
  a.portable = portable;
  set(a.q, a.q_stride, q_device);
  set(a.k, a.k_stride, k_device);
  set(a.v, a.v_stride, v_device);
  set(a.out, a.out_stride, out);
  a.lse = out_lse.data<float>();
  attention_forward_cuda(ctx, a);
  const std::vector<float> found = out.to_floats(ctx);
  expect_within_rounding(found, exact_out, DType::bf16, "out", kFloatTolerance);
  EXPECT_LE(relative_error(out_lse.to_floats(ctx), lse), kFloatTolerance);
  attention_forward_cuda(ctx, a);
  EXPECT_EQ(out.to_floats(ctx), found) << "second run";
}

TEST(AttentionBf16CudaNode, Cache) {
  const std::unique_ptr<Context> ctx = new_cuda();
  for (const int64_t head_dim : {20, 64, 72, 80, 96, 128}) {
    for (const CacheCase& c :
         {CacheCase{{1, 1, 1}, {700, 129, 2000}, 4, 4, head_dim, true},
          CacheCase{{1, 0, 3}, {257, 5, 130}, 8, 2, head_dim, true},
          CacheCase{{16, 2}, {1000, 2}, 6, 1, head_dim, true}, CacheCase{{5, 16}, {64, 900}, 3, 3, head_dim, false},
          CacheCase{{100, 1, 40}, {333, 640, 40}, 4, 2, head_dim, true},
          CacheCase{{17, 130}, {300, 65}, 2, 1, head_dim, false},
          CacheCase{{400, 70}, {650, 270}, 2, 2, head_dim, true}}) {
      for (const bool portable : {false, true}) {
        SCOPED_TRACE(cat("P ", head_dim, ", ", c.queries[0], " of ", c.keys[0], portable ? " portable" : ""));
        check_cache(*ctx, c, portable);
      }
    }
  }
}

// A NaN in one sequence stays there: tiles read past the end of a sequence into the next one.
TEST(AttentionBf16CudaNode, NanStaysInItsSequence) {
  const std::unique_ptr<Context> ctx = new_cuda();
  for (const int64_t head_dim : {64, 72, 80, 128}) {
    for (const bool causal : {true, false}) {
      const AttentionCase c{"nan", {70, 33, 150}, 2, 1, head_dim, causal};
      AttentionValues x = attention_values(c, DType::bf16);
      const double nan = std::numeric_limits<double>::quiet_NaN();
      for (int64_t t = 70; t < 103; ++t) {  // all of the second sequence
        for (std::vector<double>* values : {&x.q, &x.k, &x.v, &x.grad_out}) {
          const int64_t width = static_cast<int64_t>(values->size()) / c.tokens();
          std::fill_n(values->begin() + t * width, width, nan);
        }
      }
      for (const bool portable : {false, true}) {
        const Bf16Result found = run(*ctx, c, x, {.portable = portable});
        for (const std::vector<float>* values : {&found.out, &found.dq, &found.dk, &found.dv}) {
          const int64_t width = static_cast<int64_t>(values->size()) / c.tokens();
          for (int64_t i = 0; i < c.tokens() * width; ++i) {
            const int64_t t = i / width;
            ASSERT_EQ(std::isnan((*values)[static_cast<size_t>(i)]), t >= 70 && t < 103)
                << head_dim << (causal ? " causal" : " full") << " portable " << portable << ", element " << i;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace matvlm
