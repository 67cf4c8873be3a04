// Carried states of the SSD recurrence: gradients of initial and final states against complex step, empty sequences, a
// row cut in two against the whole, decode steps against the full pass.
#include <gtest/gtest.h>

#include "tests/autograd/ssd_reference.h"

namespace matvlm::testing {
namespace {

std::vector<SsdCase> state_cases() {
  return {
      {"one token", {1}, {1, 1, 1, 1, 16, 16}, true, false, true},
      {"rows in another order, an empty sequence", {17, 0, 33}, {6, 3, 2, 1, 24, 40}, true, true, true},
      {"no tokens at all", {0, 0}, {2, 1, 2, 1, 8, 12}, true, false, true},
      {"initial states only", {31, 2}, {2, 2, 1, 2, 13, 7}, true, false, false},
      {"final states only", {16, 65}, {3, 1, 1, 3, 20, 80}, false, true, true},
      {"P = N = 80", {63}, {2, 2, 2, 2, 80, 80}, true, false, true},
  };
}

// <dy, y> + <dfinal, final state>.
template <class S>
S loss_of(const SsdProblem& p, const SsdValues<S>& in) {
  const SsdForward<S> out = host_forward(p, in);
  S sum(0);
  for (size_t i = 0; i < p.dy.size(); ++i) sum += out.y[i] * p.dy[i];
  for (size_t i = 0; i < p.dfinal.size(); ++i) sum += out.final_state[i] * p.dfinal[i];
  return sum;
}

TEST(SsdStates, BackwardMatchesComplexStep) {
  for (const SsdCase& c : state_cases()) {
    const SsdProblem p(c, DType::f32);
    SsdValues<double> grads = host_backward(p, p.in, p.dy, p.dfinal);
    // From the order of the sequences to that of the rows; a row that no sequence uses has no gradient.
    std::vector<double> rows(p.in[kInitial].size(), 0.0);
    for (int64_t b = 0; b < p.batch() && c.initial; ++b) {
      std::copy_n(grads[kInitial].begin() + b * p.state_row(), p.state_row(), rows.begin() + p.slot(b) * p.state_row());
    }
    grads[kInitial] = rows;
    for (size_t i = 0; i < kSsdInputs; ++i) {
      SsdValues<std::complex<double>> in = converted<std::complex<double>>(p.in);
      const auto loss = [&](const std::vector<std::complex<double>>& z) {
        in[i] = z;
        return loss_of(p, in);
      };
      expect_complex_step(cat(c.name, ": ", kSsdNames[i]), loss, p.in[i], grads[i]);
    }
  }
}

TEST(SsdStates, FloatMatchesDouble) {
  for (const SsdCase& c : state_cases()) {
    const SsdProblem p(c, DType::f32);
    const SsdValues<float> in = converted<float>(p.in);
    const SsdForward<float> forward = host_forward(p, in);
    SsdResult found{forward.y, forward.final_state, {}};
    found.grads = host_backward(p, in, convert<float>(p.dy), convert<float>(p.dfinal));
    expect_matches(p, DType::f32, found, ssd_reference(p), {}, c.name);
  }
}

TEST(SsdStates, EmptySequencesPassTheStateOn) {
  const SsdProblem p({"empty sequences", {0, 5, 0}, {3, 1, 3, 1, 12, 20}, true, true, true}, DType::f32);
  const SsdForward<double> forward = host_forward(p, p.in);
  const std::vector<double> initial = p.rows_of_sequences(p.in[kInitial]);
  const SsdValues<double> grads = host_backward(p, p.in, p.dy, p.dfinal);
  const SsdValues<double> without = host_backward(p, p.in, p.dy, {});
  for (const int64_t b : {0, 2}) {
    for (int64_t i = b * p.state_row(); i < (b + 1) * p.state_row(); ++i) {
      const auto k = static_cast<size_t>(i);
      ASSERT_EQ(forward.final_state[k], initial[k]);
      ASSERT_EQ(grads[kInitial][k], p.dfinal[k]);
      ASSERT_EQ(without[kInitial][k], 0.0);
    }
  }
}

// A sequence in two calls, the state handed forward and its gradient backward: what one call gives.
TEST(SsdStates, TwoCallsMatchOne) {
  const SsdShape shape{3, 1, 3, 3, 16, 24};
  const int64_t cut = 37;
  const SsdProblem whole({"whole", {90}, shape, true, false, true}, DType::f32);
  SsdProblem first({"first part", {cut}, shape, true, false, true}, DType::f32);
  SsdProblem second({"second part", {90 - cut}, shape, true, false, true}, DType::f32);
  const auto widths = whole.widths();
  const auto split = [&](const std::vector<double>& from, int64_t width, std::vector<double>& a,
                         std::vector<double>& b) {
    a.assign(from.begin(), from.begin() + cut * width);
    b.assign(from.begin() + cut * width, from.end());
  };
  for (size_t i = 0; i < kALog; ++i) split(whole.in[i], widths[i], first.in[i], second.in[i]);
  split(whole.dy, shape.heads * shape.head_dim, first.dy, second.dy);
  second.in[kInitial] = host_forward(first, first.in).final_state;

  const SsdForward<double> expected = host_forward(whole, whole.in);
  const SsdForward<double> end = host_forward(second, second.in);
  EXPECT_EQ(end.final_state, expected.final_state);
  const SsdValues<double> grads = host_backward(whole, whole.in, whole.dy, whole.dfinal);
  const SsdValues<double> later = host_backward(second, second.in, second.dy, whole.dfinal);
  const SsdValues<double> earlier = host_backward(first, first.in, first.dy, later[kInitial]);
  for (size_t i = 0; i < kSsdInputs; ++i) {
    std::vector<double> joined = earlier[i];
    if (i < kALog) joined.insert(joined.end(), later[i].begin(), later[i].end());
    for (size_t k = 0; k < joined.size() && i >= kALog && i < kInitial; ++k) joined[k] += later[i][k];
    EXPECT_LE(relative_error(joined, grads[i]), 1e-13) << kSsdNames[i];
  }
}

// What decode steps must reproduce: the pass over whole sequences on the same device, and the double oracle.
struct FullPass {
  std::vector<float> y, states;  // [T, H, P], [T, H, P, N]
  std::vector<double> exact_y, exact_states;
};

// Rows [from[b], to[b]) of every sequence out of `all`.
template <class T>
std::vector<T> parts_of(const SsdProblem& p, const std::vector<T>& all, int64_t row, const std::vector<int64_t>& from,
                        const std::vector<int64_t>& to) {
  std::vector<T> out;
  for (size_t b = 0; b < from.size(); ++b) {
    out.insert(out.end(), all.begin() + (p.cu[b] + from[b]) * row, all.begin() + (p.cu[b] + to[b]) * row);
  }
  return out;
}

// The op through its graph node on tokens [from[b], to[b]) of every sequence of a problem.
class Decoder {
 public:
  Decoder(Context& ctx, const SsdProblem& p, DType dtype) : ctx_(ctx), p_(p), dtype_(dtype), g_(ctx, false) {
    for (size_t i = kALog; i < kInitial; ++i) weights_.declare(kSsdNames[i], {p.c.shape.heads}, true);
    weights_.fill(ctx, dtype, {p.in[kALog], p.in[kD], p.in[kDtBias]});
  }
  std::vector<float> run(const std::vector<int64_t>& from, const std::vector<int64_t>& to, const StateIo& state) {
    std::vector<int64_t> lengths;
    for (size_t b = 0; b < from.size(); ++b) lengths.push_back(to[b] - from[b]);
    const std::vector<int64_t> cu = boundaries(lengths);
    const auto widths = p_.widths();
    std::array<Var, 4> in;
    for (size_t i = 0; i < 4; ++i) {
      in[i] = g_.constant(tensor_of(ctx_, parts_of(p_, p_.in[i], widths[i], from, to), {cu.back(), widths[i]}, dtype_));
    }
    return ssd(g_, p_.c.shape, in[kX], in[kB], in[kC], in[kDt], weights_[0], weights_[1], weights_[2],
               make_seqlens(ctx_, cu), &state)
        .value()
        .to_floats(ctx_);
  }
  FullPass full_pass() {
    const SsdShape& s = p_.c.shape;
    FullPass out;
    StateIo state;
    state.every = Tensor::empty(ctx_, {p_.tokens(), s.heads, s.head_dim, s.state}, DType::f32);
    out.y = run(std::vector<int64_t>(p_.cu.size() - 1, 0), p_.c.lengths, state);
    out.states = state.every.to_floats(ctx_);
    SsdArgs<double> a = host_args(p_, p_.in);
    out.exact_y.resize(out.y.size());
    out.exact_states.resize(out.states.size());
    a.y = out.exact_y.data();
    a.y_stride = s.heads * s.head_dim;
    a.every = out.exact_states.data();
    ssd_forward_cpu(a);
    return out;
  }

 private:
  Context& ctx_;
  const SsdProblem& p_;
  DType dtype_;
  Graph g_;
  OpWeights weights_;
};

// A prefill of unequal lengths, then decode steps of 1 and 3 tokens with states in place, in rows chosen by `slots`,
// then one step taken back. float32: the same bits as the pass over the whole sequences. bf16: right, but chunks may
// begin elsewhere.
void check_decode(Context& ctx, DType dtype) {
  const SsdProblem p({"decode", {9, 12, 7}, {3, 1, 3, 3, 16, 24}}, dtype);
  const SsdShape& s = p.c.shape;
  const std::vector<int64_t> slots = {2, 0, 3};
  Decoder decoder(ctx, p, dtype);
  const FullPass full = decoder.full_pass();
  const int64_t y_row = s.heads * s.head_dim;
  const auto expect_part = [&](const std::vector<float>& found, bool states, const std::vector<int64_t>& from,
                               const std::vector<int64_t>& to, const std::string& what) {
    const int64_t row = states ? p.state_row() : y_row;
    const auto same = parts_of(p, states ? full.states : full.y, row, from, to);
    const auto exact = parts_of(p, states ? full.exact_states : full.exact_y, row, from, to);
    if (dtype == DType::f32) {
      EXPECT_EQ(found, same) << what;
    }
    expect_tensor(p, found, exact, {}, dtype, what);
  };

  StateIo state;
  state.final = Tensor::zeros(ctx, {4, s.heads, s.head_dim, s.state}, DType::f32);
  state.slots = Tensor::from(ctx, slots, {3});
  expect_part(decoder.run({0, 0, 0}, {5, 8, 0}, state), false, {0, 0, 0}, {5, 8, 0}, "prefill");
  state.initial = state.final;
  expect_part(decoder.run({5, 8, 0}, {6, 9, 1}, state), false, {5, 8, 0}, {6, 9, 1}, "one token");
  state.every = Tensor::empty(ctx, {9, s.heads, s.head_dim, s.state}, DType::f32);
  expect_part(decoder.run({6, 9, 1}, {9, 12, 4}, state), false, {6, 9, 1}, {9, 12, 4}, "three tokens");
  expect_part(state.every.to_floats(ctx), true, {6, 9, 1}, {9, 12, 4}, "states after each token");
  // Sequence 2 goes back to its state after token 2 (row 6 of the step), the others stay.
  state.final.slice_rows(3, 4).copy_from(ctx, state.every.slice_rows(6, 7));
  state.every = Tensor();
  expect_part(decoder.run({9, 12, 2}, {9, 12, 7}, state), false, {9, 12, 2}, {9, 12, 7}, "after going back");
  const std::vector<float> rows = state.final.to_floats(ctx);
  std::vector<float> found;
  for (const int64_t slot : slots) {
    found.insert(found.end(), rows.begin() + slot * p.state_row(), rows.begin() + (slot + 1) * p.state_row());
  }
  expect_part(found, true, {8, 11, 6}, {9, 12, 7}, "final states");
  const std::vector<float> untouched(rows.begin() + p.state_row(), rows.begin() + 2 * p.state_row());
  EXPECT_EQ(untouched, std::vector<float>(static_cast<size_t>(p.state_row()), 0.0F)) << "a slot that no sequence uses";
}

TEST(SsdStates, DecodeMatchesFullPass) { check_decode(cpu(), DType::f32); }
TEST(SsdStatesCuda, DecodeMatchesFullPassFloat32) { check_decode(*new_cuda(), DType::f32); }
TEST(SsdStatesCuda, DecodeMatchesFullPassBf16) { check_decode(*new_cuda(), DType::bf16); }

}  // namespace
}  // namespace matvlm::testing
