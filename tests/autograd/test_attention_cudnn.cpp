// Attention by cuDNN beside our kernels: both against the double oracle, how packed rows are shown to it, errors.
#include <gtest/gtest.h>

#include "autograd/ops/add.h"
#include "core/dnn_graph.h"
#include "tests/autograd/attention_cases.h"
#include "tests/support/errors.h"

namespace matvlm {
namespace {

using namespace matvlm::testing;

TEST(AttentionDnn, PackedRowsWithoutEmptySequences) {
  const auto rows = [](std::vector<int64_t> cu) { return dnn_attention_rows(*make_seqlens(cpu(), std::move(cu))); };
  const DnnAttentionRows same = rows({0, 70, 140});
  EXPECT_TRUE(same.uniform);
  EXPECT_EQ(same.batch, 2);
  EXPECT_EQ(same.length, 70);
  const DnnAttentionRows ragged = rows({0, 129, 130, 140});
  EXPECT_FALSE(ragged.uniform);
  EXPECT_EQ(ragged.batch, 3);
  EXPECT_EQ(ragged.length, 256);
  const DnnAttentionRows gaps = rows({0, 0, 5, 5, 71, 71});
  EXPECT_FALSE(gaps.uniform);
  EXPECT_EQ(gaps.cu, (std::vector<int64_t>{0, 5, 71}));
  EXPECT_EQ(gaps.batch, 2);
  EXPECT_EQ(gaps.length, 128);
  EXPECT_TRUE(rows({0, 0, 66, 132}).uniform) << "the empty sequence is left out";
  EXPECT_FALSE(rows({0, 1, 2}).uniform) << "one query of one key";
  EXPECT_EQ(rows({0}).batch, 0);
  EXPECT_EQ(rows({0, 0}).batch, 0);
}

TEST(AttentionDnn, OneLineOnTheCpu) {
  EXPECT_EQ(error_of([] { make_dnn_attention(cpu()); }),
            dnn_version() == 0 ? "[attention, back end cudnn] this build has no CUDA and cuDNN, expected native"
                               : "[attention, back end cudnn] found device cpu, expected a GPU or native");
}

// The shapes of the other suites, and some of the kind that training has: sequences of one length in a batch.
std::vector<AttentionCase> cases() {
  std::vector<AttentionCase> out;
  for (const AttentionCase& c : attention_cases()) {
    if (c.head_dim % 8 == 0) out.push_back(c);
  }
  for (const int64_t head_dim : {64, 72, 80, 128}) {
    for (const bool causal : {true, false}) {
      const std::string kind = cat(head_dim, causal ? " causal" : " full");
      out.push_back({"batch " + kind, {130, 130, 130}, 4, 4, head_dim, causal});
      out.push_back({"batch, grouped " + kind, {256, 256}, 6, 2, head_dim, causal});
      out.push_back({"ragged " + kind, {300, 1, 128, 77}, 4, 4, head_dim, causal});
      out.push_back({"ragged, grouped " + kind, {129, 500}, 4, 1, head_dim, causal});
    }
  }
  return out;
}

// One context and its plans for all cases: making a plan takes cuDNN a second.
class AttentionDnnCuda : public ::testing::TestWithParam<AttentionCase> {
 public:
  static void SetUpTestSuite() {
    context_ = new_cuda();
    deterministic_ = make_dnn_attention(*context_, true);
    as_it_comes_ = make_dnn_attention(*context_, false);
  }
  static void TearDownTestSuite() {
    deterministic_ = as_it_comes_ = nullptr;
    context_ = nullptr;
  }

 protected:
  static inline std::unique_ptr<Context> context_;
  static inline std::shared_ptr<DnnAttention> deterministic_, as_it_comes_;
};
INSTANTIATE_TEST_SUITE_P(Cases, AttentionDnnCuda, ::testing::ValuesIn(cases()));

// As in test_attention.cpp, with tensor cores' truncation: gradients that are 0 are differences of such sums.
constexpr double kCudaDifferenceTolerance = 1e-5;

// Flash-attention's rule for both back ends: twice the error of the oracle that rounds to bf16 what has to be stored.
TEST_P(AttentionDnnCuda, BothBackEndsWithinRounding) {
  const AttentionCase& c = GetParam();
  const AttentionValues x = attention_values(c, DType::bf16);
  const auto exact = raw_gradients<double>(c, x);
  const auto rounded = raw_gradients<double>(c, x, true);
  std::vector<std::pair<const char*, std::shared_ptr<DnnAttention>>> back_ends = {{"native", nullptr},
                                                                                  {"cudnn", deterministic_}};
  if (c.name.find("batch") == 0 || c.name.find("ragged") == 0)
    back_ends.emplace_back("cudnn as it comes", as_it_comes_);
  for (const auto& [name, dnn] : back_ends) {
    SCOPED_TRACE(name);
    const auto found = node_gradients(*context_, c, x, DType::bf16, dnn);
    const auto compare = [&](const std::vector<float>& result, const std::vector<double>& expected,
                             const std::vector<double>& in_bf16, const char* what) {
      const double rounding = is_zero_gradient(expected, x) ? 0 : relative_error(round_bf16(in_bf16), expected);
      expect_float_close(result, expected, x, 2 * rounding + kCudaDifferenceTolerance, what);
    };
    compare(found.out, exact.out, rounded.out, "out");
    compare(found.dq, exact.dq, rounded.dq, "dq");
    compare(found.dk, exact.dk, rounded.dk, "dk");
    compare(found.dv, exact.dv, rounded.dv, "dv");
  }
}

TEST_P(AttentionDnnCuda, SameBitsTwice) {
  const AttentionCase& c = GetParam();
  const AttentionValues x = attention_values(c, DType::bf16);
  const auto first = node_gradients(*context_, c, x, DType::bf16, deterministic_);
  const auto again = node_gradients(*context_, c, x, DType::bf16, deterministic_);
  EXPECT_EQ(first.out, again.out);
  EXPECT_EQ(first.dq, again.dq);
  EXPECT_EQ(first.dk, again.dk);
  EXPECT_EQ(first.dv, again.dv);
}

// The log-sum-exp of every row, in cuDNN's order of sequences, heads and rows.
TEST_P(AttentionDnnCuda, LogSumExp) {
  const AttentionCase& c = GetParam();
  const AttentionValues x = attention_values(c, DType::bf16);
  const std::vector<int64_t> cu = c.cu();
  std::vector<double> out(x.q.size());
  std::vector<double> lse(static_cast<size_t>(c.heads * c.tokens()));
  const auto exact = forward_args<double>(c, cu, x.q.data(), x.k.data(), x.v.data(), out.data(), lse.data());
  const int threads = oracle_threads();
  std::vector<double> scratch(static_cast<size_t>(attention_scratch_cpu(exact.ranges, 1, threads)));
  attention_forward_cpu(exact, scratch.data(), threads);

  const SeqlensPtr lens = make_seqlens(*context_, cu);
  const DnnAttentionRows rows = dnn_attention_rows(*lens);
  const auto upload = [&](const std::vector<double>& values, int64_t width) {
    return Tensor::from_floats(*context_, convert<float>(values), {c.tokens(), width}, DType::bf16);
  };
  const Tensor q = upload(x.q, c.width()), k = upload(x.k, c.kv_width()), v = upload(x.v, c.kv_width());
  const Tensor result = Tensor::empty(*context_, q.shape(), DType::bf16);
  const Tensor statistics = Tensor::empty(*context_, {rows.batch, c.heads, rows.length}, DType::f32);
  AttentionForwardArgs<bf16, float> a;
  a.shape = c.shape();
  a.tokens = a.kv_rows = c.tokens();
  a.q = q.data<bf16>();
  a.k = k.data<bf16>();
  a.v = v.data<bf16>();
  a.out = result.data<bf16>();
  a.q_stride = a.out_stride = c.width();
  a.k_stride = a.v_stride = c.kv_width();
  a.lse = statistics.data<float>();
  attention_forward_dnn(*context_, *deterministic_, *lens, a);
  const std::vector<float> found = statistics.to_floats(*context_);
  std::vector<float> ordered;
  for (int64_t h = 0; h < c.heads; ++h) {
    for (int64_t b = 0; b < rows.batch; ++b) {
      const auto first = found.begin() + (b * c.heads + h) * rows.length;
      const int64_t n = rows.cu[static_cast<size_t>(b) + 1] - rows.cu[static_cast<size_t>(b)];
      ordered.insert(ordered.end(), first, first + n);
    }
  }
  EXPECT_LE(relative_error(ordered, lse), 1e-5);
  // Without statistics the result is the same.
  const std::vector<float> with = result.to_floats(*context_);
  a.lse = nullptr;
  attention_forward_dnn(*context_, *deterministic_, *lens, a);
  EXPECT_EQ(result.to_floats(*context_), with);
}

TEST(AttentionDnnCudaNode, GradientsAreAddedToWhatIsThere) {
  const std::unique_ptr<Context> ctx = new_cuda();
  const std::shared_ptr<DnnAttention> dnn = make_dnn_attention(*ctx);
  const AttentionCase c{"twice", {70, 30}, 2, 2, 64, true};
  const AttentionValues x = attention_values(c, DType::bf16);
  const auto once = node_gradients(*ctx, c, x, DType::bf16, dnn);
  Graph g(*ctx);
  const auto input = [&](const std::vector<double>& values, int64_t width) {
    return g.input(Tensor::from_floats(*ctx, convert<float>(values), {c.tokens(), width}, DType::bf16));
  };
  const Var q = input(x.q, c.width()), k = input(x.k, c.kv_width()), v = input(x.v, c.kv_width());
  const SeqlensPtr lens = make_seqlens(*ctx, c.cu());
  const Var first = attention_dnn(g, dnn, c.shape(), q, k, v, lens);
  const Var second = attention_dnn(g, dnn, c.shape(), q, k, v, lens);
  g.backward(add(g, {first, second}),
             Tensor::from_floats(*ctx, convert<float>(x.grad_out), {c.tokens(), c.width()}, DType::bf16));
  const auto twice = [](std::vector<float> values) {
    for (float& value : values) value *= 2;
    return values;
  };
  EXPECT_EQ(q.grad().to_floats(*ctx), twice(once.dq));
  EXPECT_EQ(k.grad().to_floats(*ctx), twice(once.dk));
  EXPECT_EQ(v.grad().to_floats(*ctx), twice(once.dv));
}

TEST(AttentionDnnCudaNode, Errors) {
  const std::unique_ptr<Context> ctx = new_cuda();
  const std::shared_ptr<DnnAttention> dnn = make_dnn_attention(*ctx);
  Graph g(*ctx);
  const SeqlensPtr lens = make_seqlens(*ctx, {0, 4});
  const auto message = [&](int64_t head_dim, DType dtype) {
    const Var x = g.constant(Tensor::zeros(*ctx, {4, head_dim}, dtype));
    return error_of([&] { attention_dnn(g, dnn, {1, 1, head_dim, true, 1.0}, x, x, x, lens); });
  };
  EXPECT_EQ(message(20, DType::bf16),
            "[attention, back end cudnn] head width: found 20, expected a multiple of 8 up to 128");
  EXPECT_EQ(message(136, DType::bf16),
            "[attention, back end cudnn] head width: found 136, expected a multiple of 8 up to 128");
  EXPECT_EQ(message(64, DType::f32), "[attention, back end cudnn] q: found f32, expected bf16");
}

}  // namespace
}  // namespace matvlm
