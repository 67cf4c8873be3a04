// The decode step of the SSD on a GPU against the double oracle: outputs, states in place in rows chosen by slots,
// states after every token; several tokens a call give the bits of as many calls.
#include <gtest/gtest.h>

#include <array>

#include "autograd/ops/ssd_cpu.h"
#include "autograd/ops/ssd_step.h"
#include "tests/autograd/mixer_op_support.h"

namespace matvlm::testing {
namespace {

const std::vector<SsdShape>& shapes() {
  static const std::vector<SsdShape> all = {
      {3, 1, 3, 3, 16, 24},    // heads, x, b, c groups, P, N
      {4, 2, 4, 1, 80, 80},    // two blocks of 40 rows
      {2, 1, 2, 2, 13, 7},     // single elements
      {3, 3, 1, 3, 33, 45},    // single elements, wide
      {2, 2, 2, 2, 128, 128},  //
      {2, 2, 1, 2, 72, 72},    // columns that do not fill the lanes
      {4, 4, 1, 1, 64, 128},   //
      {1, 1, 1, 1, 96, 64},    //
      {5, 5, 5, 5, 41, 12},    // two blocks, the second with less rows
      {2, 1, 1, 2, 1, 96},     //
      {1, 1, 1, 1, 8, 1},      //
  };
  return all;
}

// Tokens of the sequences: none, one, a few, longer than a stage of the kernel.
const std::vector<int64_t> kLengths = {3, 1, 0, 16, 21, 8};
const std::vector<int64_t> kSlots = {6, 0, 3, 5, 1, 2};  // row 4 is nobody's
constexpr int64_t kStateRows = 7;

// float32 rounds at 6e-8; an output sums up to 128 products of states that grew over 21 tokens.
constexpr double kTolerance = 2e-6;

enum Part { kX, kB, kC, kDt, kParts };

struct Problem {
  SsdShape shape;
  std::vector<int64_t> cu = boundaries(kLengths);
  int64_t tokens = cu.back();
  std::array<std::vector<double>, kParts> in;
  std::array<int64_t, kParts> widths;
  std::vector<double> a_log, d, dt_bias, initial;
  int64_t state_row;  // elements

  Problem(const SsdShape& s, DType dtype) : shape(s), state_row(s.heads * s.head_dim * s.state) {
    widths = {s.x_groups * s.head_dim, s.b_groups * s.state, s.c_groups * s.state, s.heads};
    const std::array<const char*, kParts> names = {"x", "b", "c", "dt"};
    for (size_t i = 0; i < kParts; ++i) in[i] = exact_values(names[i], tokens * widths[i], dtype);
    a_log = exact_values("a_log", s.heads, DType::f32);
    d = exact_values("d", s.heads, DType::f32);
    dt_bias = exact_values("dt_bias", s.heads, DType::f32);
    initial = exact_values("state", kStateRows * state_row, DType::f32);
    in[kDt][0] = 100;  // both ends of softplus
    in[kDt].back() = -100;
  }
};

struct Result {
  std::vector<double> y, states, every;
};

// Everything in double on the CPU. carried: from the initial states, else from zeros.
Result oracle(const Problem& p, bool carried) {
  const SsdShape& s = p.shape;
  SsdArgs<double> a;
  a.shape = s;
  a.tokens = p.tokens;
  a.batch = static_cast<int64_t>(kLengths.size());
  a.cu = p.cu.data();
  a.x = p.in[kX].data();
  a.b = p.in[kB].data();
  a.c = p.in[kC].data();
  a.dt = p.in[kDt].data();
  a.x_stride = p.widths[kX];
  a.b_stride = p.widths[kB];
  a.c_stride = p.widths[kC];
  a.dt_stride = p.widths[kDt];
  a.a_log = p.a_log.data();
  a.d = p.d.data();
  a.dt_bias = p.dt_bias.data();
  Result r;
  r.y.resize(static_cast<size_t>(p.tokens * s.heads * s.head_dim));
  r.states = p.initial;
  r.every.resize(static_cast<size_t>(p.tokens * p.state_row));
  a.y = r.y.data();
  a.y_stride = s.heads * s.head_dim;
  a.slots = kSlots.data();
  a.initial = carried ? p.initial.data() : nullptr;
  a.final_state = r.states.data();
  a.every = r.every.data();
  ssd_forward_cpu(a);
  return r;
}

// The operands on the GPU; x, B, C and dt are column ranges of one tensor.
template <class E>
struct DeviceProblem {
  Context& ctx;
  const Problem& p;
  Tensor fused, a_log, d, dt_bias, y, slots;
  std::array<int64_t, kParts> first;

  DeviceProblem(Context& context, const Problem& problem) : ctx(context), p(problem) {
    int64_t total = 3;  // unaligned
    for (size_t i = 0; i < kParts; ++i) {
      first[i] = total;
      total += p.widths[i];
    }
    fused = Tensor::zeros(ctx, {p.tokens, total}, kDType<E>);
    for (size_t i = 0; i < kParts; ++i) {
      fused.slice_cols(first[i], first[i] + p.widths[i])
          .copy_from(ctx, tensor_of(ctx, p.in[i], {p.tokens, p.widths[i]}, kDType<E>));
    }
    a_log = tensor_of(ctx, p.a_log, {p.shape.heads}, DType::f32);
    d = tensor_of(ctx, p.d, {p.shape.heads}, DType::f32);
    dt_bias = tensor_of(ctx, p.dt_bias, {p.shape.heads}, DType::f32);
    y = Tensor::empty(ctx, {p.tokens, p.shape.heads * p.shape.head_dim}, kDType<E>);
    y.copy_from(ctx, tensor_of(ctx, std::vector<double>(static_cast<size_t>(y.numel()), NAN), y.shape(), kDType<E>));
    slots = Tensor::from(ctx, kSlots, {static_cast<int64_t>(kSlots.size())});
  }

  // A call over the tokens [cu[b], cu[b + 1]) of the packed rows, whose first is token `first_token` of the problem.
  SsdArgs<E, float> args(int64_t first_token, const Seqlens& lens) const {
    SsdArgs<E, float> a;
    a.shape = p.shape;
    a.tokens = lens.tokens();
    a.batch = lens.batch();
    a.longest = lens.longest;
    a.cu = lens.device_cu.template data<int64_t>();
    const E* row = fused.data<E>() + first_token * fused.cols();
    a.x = row + first[kX];
    a.b = row + first[kB];
    a.c = row + first[kC];
    a.dt = row + first[kDt];
    a.x_stride = a.b_stride = a.c_stride = a.dt_stride = fused.cols();
    a.a_log = a_log.data<float>();
    a.d = d.data<float>();
    a.dt_bias = dt_bias.data<float>();
    a.y = y.data<E>() + first_token * y.cols();
    a.y_stride = y.cols();
    a.slots = slots.data<int64_t>();
    return a;
  }
};

// States behind `shift` unused elements, so that with a shift of 1 they are not aligned.
Tensor state_buffer(Context& ctx, const Problem& p, int64_t shift) {
  std::vector<double> values(static_cast<size_t>(shift), 0.0);
  values.insert(values.end(), p.initial.begin(), p.initial.end());
  return tensor_of(ctx, values, {static_cast<int64_t>(values.size())}, DType::f32);
}
std::vector<float> states_of(Context& ctx, const Tensor& buffer, int64_t shift) {
  const std::vector<float> values = buffer.to_floats(ctx);
  return std::vector<float>(values.begin() + shift, values.end());
}

// One call over all tokens, in place.
template <class E>
void check_step(Context& ctx, const Problem& p, bool carried, int64_t shift) {
  const std::string where = cat("P ", p.shape.head_dim, " N ", p.shape.state, carried ? "" : " from zeros",
                                shift > 0 ? " unaligned" : "", ": ");
  const Result exact = oracle(p, carried);
  const DeviceProblem<E> device(ctx, p);
  const auto lens = make_seqlens(ctx, p.cu);
  auto a = device.args(0, *lens);
  const Tensor states = state_buffer(ctx, p, shift);
  const Tensor every = Tensor::empty(ctx, {p.tokens, p.state_row}, DType::f32);
  a.initial = carried ? states.data<float>() + shift : nullptr;
  a.final_state = states.data<float>() + shift;
  a.every = every.data<float>();
  ssd_step_cuda(ctx, a);
  const std::vector<float> found = states_of(ctx, states, shift);
  expect_close(device.y.to_floats(ctx), exact.y, kDType<E>, kTolerance, where + "y");
  expect_close(found, exact.states, DType::f32, kTolerance, where + "final states");
  expect_close(every.to_floats(ctx), exact.every, DType::f32, kTolerance, where + "states after every token");
  for (int64_t i = 4 * p.state_row; i < 5 * p.state_row; ++i) {
    ASSERT_EQ(found[static_cast<size_t>(i)], p.initial[static_cast<size_t>(i)]) << where << "a row that nobody uses";
  }
}

// Sequence b alone, `count` tokens a call, with its state in place; the bits of the call over everything.
template <class E>
void check_split(Context& ctx, const Problem& p, int64_t count) {
  const DeviceProblem<E> whole(ctx, p);
  const DeviceProblem<E> parts(ctx, p);
  const Tensor whole_states = state_buffer(ctx, p, 0);
  const Tensor part_states = state_buffer(ctx, p, 0);
  const auto lens = make_seqlens(ctx, p.cu);
  auto a = whole.args(0, *lens);
  a.initial = a.final_state = whole_states.data<float>();
  ssd_step_cuda(ctx, a);
  for (size_t b = 0; b < kLengths.size(); ++b) {
    for (int64_t done = 0; done < kLengths[b]; done += count) {
      const auto part_lens = make_seqlens(ctx, {0, std::min(count, kLengths[b] - done)});
      auto part = parts.args(p.cu[b] + done, *part_lens);
      part.slots += b;
      part.initial = part.final_state = part_states.data<float>();
      ssd_step_cuda(ctx, part);
    }
  }
  EXPECT_EQ(parts.y.to_floats(ctx), whole.y.to_floats(ctx))
      << "y, " << count << " tokens a call, P " << p.shape.head_dim;
  EXPECT_EQ(part_states.to_floats(ctx), whole_states.to_floats(ctx))
      << "states, " << count << " tokens a call, P " << p.shape.head_dim;
}

template <class E>
void check_all() {
  const auto ctx = new_cuda();
  for (const SsdShape& shape : shapes()) {
    const Problem p(shape, kDType<E>);
    check_step<E>(*ctx, p, true, 0);
    check_step<E>(*ctx, p, false, 0);
    check_step<E>(*ctx, p, true, 1);
    check_split<E>(*ctx, p, 1);
    check_split<E>(*ctx, p, 3);
  }
}

TEST(SsdStepCuda, Float32MatchesOracle) { check_all<float>(); }
TEST(SsdStepCuda, Bf16MatchesOracle) { check_all<bf16>(); }

TEST(SsdStepCuda, TooWideIsNamed) {
  const auto ctx = new_cuda();
  SsdArgs<float, float> a;
  a.shape = {1, 1, 1, 1, 129, 16};
  a.batch = 1;
  try {
    ssd_step_cuda(*ctx, a);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "[ssd] found head width 129 and state size 16, expected at most 128");
  }
}

}  // namespace
}  // namespace matvlm::testing
