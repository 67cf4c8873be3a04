// Problems for the tests of the SSD recurrence (shape, packed lengths, carried states, values) and the raw CPU op on
// them in any scalar.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "autograd/ops/ssd.h"
#include "autograd/ops/ssd_cpu.h"
#include "tests/autograd/mixer_op_support.h"

namespace matvlm::testing {

// Where the operands of a device op lie: rows back to back; rows 16 bytes aligned inside wider ones; rows at odd
// offsets.
enum class SsdView { contiguous, aligned, unaligned };

struct SsdCase {
  std::string name;
  std::vector<int64_t> lengths;
  SsdShape shape;  // heads, x, b, c groups, P, N
  bool initial = false;
  bool slots = false;        // rows of carried states are not in the order of the sequences
  bool final_state = false;  // the state after the last token is an output, with a gradient
  bool accumulate = false;   // gradients are added to what is there
  SsdView view = SsdView::contiguous;
};

enum SsdInput { kX, kB, kC, kDt, kALog, kD, kDtBias, kInitial, kSsdInputs };
inline const std::array<std::string, kSsdInputs> kSsdNames = {"x", "b", "c", "dt", "a_log", "d", "dt_bias", "initial"};

template <class S>
using SsdValues = std::array<std::vector<S>, kSsdInputs>;  // inputs, or a gradient for each

// The problem owns what a raw call reads on the host. Values are exact in `dtype` (weights and states in float32).
struct SsdProblem {
  SsdCase c;
  std::vector<int64_t> cu, slots;  // slots: empty = none
  SsdValues<double> in;            // no initial state: empty
  std::vector<double> dy, dfinal;  // [T, H, P]; [B, H, P, N] or empty

  SsdProblem(SsdCase which, DType dtype) : c(std::move(which)), cu(boundaries(c.lengths)) {
    const SsdShape& s = c.shape;
    const int64_t t = tokens();
    in[kX] = exact_values("x", t * s.x_groups * s.head_dim, dtype);
    in[kB] = exact_values("b", t * s.b_groups * s.state, dtype);
    in[kC] = exact_values("c", t * s.c_groups * s.state, dtype);
    in[kDt] = exact_values("dt", t * s.heads, dtype, 1.5);
    in[kALog] = exact_values("a_log", s.heads, DType::f32);
    in[kD] = exact_values("d", s.heads, DType::f32);
    // Time steps around 0.1: memories from a few to hundreds of tokens.
    in[kDtBias] = exact_values("dt_bias", s.heads, DType::f32);
    for (double& v : in[kDtBias]) v -= 3;
    in[kDtBias] = convert<double>(convert<float>(in[kDtBias]));
    dy = exact_values("dy", t * s.heads * s.head_dim, dtype);
    for (int64_t b = 0; b < batch() && c.slots; ++b) slots.push_back(batch() - b);  // row 0 belongs to nobody
    if (c.initial) in[kInitial] = exact_values("initial", state_rows() * state_row(), DType::f32);
    if (c.final_state) dfinal = exact_values("dfinal", batch() * state_row(), DType::f32);
  }
  int64_t tokens() const { return cu.back(); }
  int64_t batch() const { return static_cast<int64_t>(c.lengths.size()); }
  int64_t longest() const { return c.lengths.empty() ? 0 : *std::max_element(c.lengths.begin(), c.lengths.end()); }
  int64_t state_row() const { return c.shape.heads * c.shape.head_dim * c.shape.state; }
  int64_t state_rows() const { return batch() + (c.slots ? 1 : 0); }
  int64_t slot(int64_t b) const { return slots.empty() ? b : slots[static_cast<size_t>(b)]; }
  // Columns of x, b, c and dt.
  std::array<int64_t, 4> widths() const {
    const SsdShape& s = c.shape;
    return {s.x_groups * s.head_dim, s.b_groups * s.state, s.c_groups * s.state, s.heads};
  }
  // Rows [S, ...] of a carried state in the order of the sequences.
  template <class T>
  std::vector<T> rows_of_sequences(const std::vector<T>& rows) const {
    std::vector<T> out;
    for (int64_t b = 0; b < batch(); ++b) {
      const auto from = rows.begin() + slot(b) * state_row();
      out.insert(out.end(), from, from + state_row());
    }
    return out;
  }
};

template <class S>
SsdValues<S> converted(const SsdValues<double>& in) {
  SsdValues<S> out;
  for (size_t i = 0; i < out.size(); ++i) out[i] = convert<S>(in[i]);
  return out;
}

// Arguments of the raw CPU op without its outputs.
template <class S>
SsdArgs<S> host_args(const SsdProblem& p, const SsdValues<S>& in) {
  const auto widths = p.widths();
  SsdArgs<S> a;
  a.shape = p.c.shape;
  a.tokens = p.tokens();
  a.batch = p.batch();
  a.longest = p.longest();
  a.cu = p.cu.data();
  a.x = in[kX].data();
  a.b = in[kB].data();
  a.c = in[kC].data();
  a.dt = in[kDt].data();
  a.a_log = in[kALog].data();
  a.d = in[kD].data();
  a.dt_bias = in[kDtBias].data();
  a.x_stride = widths[kX];
  a.b_stride = widths[kB];
  a.c_stride = widths[kC];
  a.dt_stride = widths[kDt];
  if (!in[kInitial].empty()) a.initial = in[kInitial].data();
  if (!p.slots.empty()) a.slots = p.slots.data();
  return a;
}

template <class S>
struct SsdForward {
  std::vector<S> y, final_state;  // [T, H, P], [B, H, P, N]
};

template <class S>
SsdForward<S> host_forward(const SsdProblem& p, const SsdValues<S>& in) {
  SsdArgs<S> a = host_args(p, in);
  a.y_stride = a.shape.heads * a.shape.head_dim;
  Guarded<S> y(a.tokens * a.y_stride);
  a.y = y.data();
  std::vector<S> states(static_cast<size_t>(p.state_rows() * p.state_row()), S(NAN));
  a.final_state = states.data();
  ssd_forward_cpu(a);
  y.check("y");
  return {y.values(), p.rows_of_sequences(states)};
}

// All gradients, of the initial states in the order of the sequences whether there are initial states or not.
template <class S>
SsdValues<S> host_backward(const SsdProblem& p, const SsdValues<S>& in, const std::vector<S>& dy,
                           const std::vector<S>& dfinal) {
  SsdArgs<S> a = host_args(p, in);
  a.dy = dy.data();
  a.dy_stride = a.shape.heads * a.shape.head_dim;
  if (!dfinal.empty()) a.dfinal_state = dfinal.data();
  std::array<std::unique_ptr<Guarded<S>>, kSsdInputs> grads;
  for (size_t i = 0; i < kALog; ++i) grads[i] = std::make_unique<Guarded<S>>(static_cast<int64_t>(in[i].size()));
  grads[kInitial] = std::make_unique<Guarded<S>>(p.batch() * p.state_row());
  a.dx = grads[kX]->data();
  a.db = grads[kB]->data();
  a.dc = grads[kC]->data();
  a.ddt = grads[kDt]->data();
  a.dinitial = grads[kInitial]->data();
  a.dx_stride = a.x_stride;
  a.db_stride = a.b_stride;
  a.dc_stride = a.c_stride;
  a.ddt_stride = a.dt_stride;
  SsdValues<S> out;
  for (size_t i = kALog; i < kInitial; ++i) out[i].assign(in[i].size(), S(0));
  a.da_log = out[kALog].data();
  a.dd = out[kD].data();
  a.ddt_bias = out[kDtBias].data();
  std::vector<S> scratch(static_cast<size_t>(ssd_backward_scratch(a)) + 1, S(NAN));
  ssd_backward_cpu(a, scratch.data());
  EXPECT_TRUE(std::isnan(real_part(scratch.back()))) << "written past the scratch";
  for (size_t i = 0; i < kSsdInputs; ++i) {
    if (grads[i] == nullptr) continue;
    grads[i]->check("gradient of " + kSsdNames[i]);
    out[i] = grads[i]->values();
  }
  return out;
}

}  // namespace matvlm::testing
