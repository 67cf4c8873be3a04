// CPU kernels of the SSD recurrence, templated on the scalar. A work item is one head of one sequence, sequential over
// its tokens; sums over heads of a group and over sequences follow in a fixed order, so results do not depend on the
// threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "autograd/ops/lanes.h"
#include "autograd/ops/ssd.h"

namespace matvlm {
namespace ssd_cpu {

// exp(dt A) for dt >= 0, A <= 0; 1 where rounding or an infinite A leaves no such product.
template <class S>
S decay_of(const S& dt, const S& rate) {
  const S exponent = dt * rate;
  return real_part(exponent) <= 0 ? scalar_exp(exponent) : S(1);
}

// Where one head of one sequence finds its inputs.
template <class S>
struct Head {
  const SsdArgs<S>& a;
  int64_t b, h, begin, end;
  int64_t x_column, b_column, c_column;
  S rate;  // A = -exp(A_log)

  Head(const SsdArgs<S>& args, int64_t sequence, int64_t head)
      : a(args), b(sequence), h(head), begin(args.cu[sequence]), end(args.cu[sequence + 1]) {
    const SsdShape& s = args.shape;
    x_column = h / (s.heads / s.x_groups) * s.head_dim;
    b_column = h / (s.heads / s.b_groups) * s.state;
    c_column = h / (s.heads / s.c_groups) * s.state;
    rate = -scalar_exp(a.a_log[h]);
  }
  const S* x(int64_t t) const { return a.x + t * a.x_stride + x_column; }
  const S* bvec(int64_t t) const { return a.b + t * a.b_stride + b_column; }
  const S* cvec(int64_t t) const { return a.c + t * a.c_stride + c_column; }
  S raw_dt(int64_t t) const { return a.dt[t * a.dt_stride + h] + a.dt_bias[h]; }
  // Row of a carried state [., H, P, N].
  int64_t state_offset(int64_t row) const { return (row * a.shape.heads + h) * a.shape.head_dim * a.shape.state; }
  int64_t slot() const { return a.slots != nullptr ? a.slots[b] : b; }
  // State before the first token, [P, N]; null = 0.
  const S* initial() const { return a.initial != nullptr ? a.initial + state_offset(slot()) : nullptr; }
};

// ---- Forward. The working state is [N][P padded to lanes], so that y needs no sum across lanes.

template <class S>
void load_state(const Head<S>& head, S* state, int64_t pitch) {
  const int64_t p_count = head.a.shape.head_dim;
  const int64_t n_count = head.a.shape.state;
  std::fill_n(state, n_count * pitch, S(0));
  const S* from = head.initial();
  if (from == nullptr) return;
  for (int64_t p = 0; p < p_count; ++p) {
    for (int64_t n = 0; n < n_count; ++n) state[n * pitch + p] = from[p * n_count + n];
  }
}

template <class S>
void store_state(const Head<S>& head, const S* state, int64_t pitch, S* to) {
  const int64_t n_count = head.a.shape.state;
  for (int64_t p = 0; p < head.a.shape.head_dim; ++p) {
    for (int64_t n = 0; n < n_count; ++n) to[p * n_count + n] = state[n * pitch + p];
  }
}

// One token: state = decay state + dt x (outer) B, y = state C + D x. x and y are padded to `pitch`.
template <class S>
void forward_token(const Head<S>& head, int64_t t, const S* x, S* state, int64_t pitch, S* y) {
  const int64_t n_count = head.a.shape.state;
  const S* b = head.bvec(t);
  const S* c = head.cvec(t);
  const S dt = scalar_softplus(head.raw_dt(t));
  const S decay = decay_of(dt, head.rate);
  const S skip = head.a.d[head.h];
  for_tiles(pitch, [&](auto tiles, int64_t p) {
    Lanes<S> input[tiles];
    Lanes<S> sum[tiles];
    for (int i = 0; i < tiles; ++i) {
      input[i] = lanes_at(x + p + i * kLanes) * dt;
      sum[i] = lanes_at(x + p + i * kLanes) * skip;
    }
    for (int64_t n = 0; n < n_count; ++n) {
      S* row = state + n * pitch + p;
      for (int i = 0; i < tiles; ++i) {
        const Lanes<S> next = lanes_at(row + i * kLanes) * decay + input[i] * b[n];
        lanes_at(row + i * kLanes) = next;
        sum[i] += next * c[n];
      }
    }
    for (int i = 0; i < tiles; ++i) lanes_at(y + p + i * kLanes) = sum[i];
  });
}

template <class S>
void forward_head(const Head<S>& head, std::vector<S>& buffer) {
  const SsdArgs<S>& a = head.a;
  const int64_t p_count = a.shape.head_dim;
  const int64_t pitch = round_up_to_lanes(p_count);
  buffer.assign(static_cast<size_t>((a.shape.state + 2) * pitch), S(0));
  S* x = buffer.data();
  S* y = x + pitch;
  S* state = y + pitch;
  load_state(head, state, pitch);
  for (int64_t t = head.begin; t < head.end; ++t) {
    std::copy_n(head.x(t), p_count, x);
    forward_token(head, t, x, state, pitch, y);
    std::copy_n(y, p_count, a.y + t * a.y_stride + head.h * p_count);
    if (a.every != nullptr) store_state(head, state, pitch, a.every + head.state_offset(t));
  }
  if (a.final_state != nullptr) store_state(head, state, pitch, a.final_state + head.state_offset(head.slot()));
}

// ---- Backward. States are kept at the start of every chunk and replayed inside; the working state is [P][N padded].

constexpr int64_t kChunk = 16;  // tokens

// Parts of the caller's scratch. Chunk i of sequence b is checkpoint cu[b] / kChunk + b + i: an upper bound, no search.
template <class S>
struct BackwardScratch {
  S* dx;           // [T, H, P]
  S* db;           // [T, H, N]
  S* dc;           // [T, H, N]
  S* weights;      // [B, H, 3]: A_log, D, dt_bias
  S* checkpoints;  // [T / kChunk + B, H, P, N padded]
  int64_t size;

  BackwardScratch(const SsdArgs<S>& a, S* base) {
    const SsdShape& s = a.shape;
    const int64_t rows = a.tokens * s.heads;
    const int64_t chunks = a.tokens / kChunk + a.batch;
    size = 0;
    const auto take = [&](int64_t count) {
      S* part = base != nullptr ? base + size : nullptr;  // null: only the size is asked for
      size += count;
      return part;
    };
    dx = take(a.dx != nullptr ? rows * s.head_dim : 0);
    db = take(a.db != nullptr ? rows * s.state : 0);
    dc = take(a.dc != nullptr ? rows * s.state : 0);
    weights = take(a.batch * s.heads * 3);
    checkpoints = take(chunks * s.heads * s.head_dim * round_up_to_lanes(s.state));
  }
};

// [P, N] into rows padded with zeros; null = 0.
template <class S>
void load_rows(const S* from, const SsdShape& shape, int64_t pitch, S* to) {
  std::fill_n(to, shape.head_dim * pitch, S(0));
  if (from == nullptr) return;
  for (int64_t p = 0; p < shape.head_dim; ++p) std::copy_n(from + p * shape.state, shape.state, to + p * pitch);
}

// Buffers of one thread.
template <class S>
struct Workspace {
  std::vector<S> dt, decay;  // of the sequence
  std::vector<S> states;     // [kChunk + 1][P][N padded]: before the chunk and after each of its tokens
  std::vector<S> dstate;     // [P][N padded]
  std::vector<S> b, c;       // [kChunk][N padded]
  std::vector<S> db, dc;     // [N padded]
  std::vector<S> dx;         // [P][kLanes]: sums not yet taken across lanes
  int64_t pitch, state_size;

  explicit Workspace(const SsdArgs<S>& a) {
    pitch = round_up_to_lanes(a.shape.state);
    state_size = a.shape.head_dim * pitch;
    states.resize(static_cast<size_t>((kChunk + 1) * state_size));
    dstate.resize(static_cast<size_t>(state_size));
    b.resize(static_cast<size_t>(kChunk * pitch));
    c.resize(static_cast<size_t>(kChunk * pitch));
    db.resize(static_cast<size_t>(pitch));
    dc.resize(static_cast<size_t>(pitch));
    dx.resize(static_cast<size_t>(a.shape.head_dim * kLanes));
  }
  void start(const Head<S>& head) {
    dt.resize(static_cast<size_t>(head.end - head.begin));
    decay.resize(dt.size());
    for (int64_t t = head.begin; t < head.end; ++t) {
      const auto i = static_cast<size_t>(t - head.begin);
      dt[i] = scalar_softplus(head.raw_dt(t));
      decay[i] = decay_of(dt[i], head.rate);
    }
    const S* last = head.a.dfinal_state;
    if (last != nullptr) last += head.state_offset(head.b);
    load_rows(last, head.a.shape, pitch, dstate.data());
  }
  // B and C of the chunk, padded with zeros.
  void load_chunk(const Head<S>& head, int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      std::copy_n(head.bvec(t), head.a.shape.state, b.data() + (t - first) * pitch);
      std::copy_n(head.cvec(t), head.a.shape.state, c.data() + (t - first) * pitch);
    }
  }
};

// after = decay before + dt x (outer) B; the two may be one buffer.
template <class S>
void advance_state(const Head<S>& head, int64_t t, const Workspace<S>& w, const S* b, const S* before, S* after) {
  const auto i = static_cast<size_t>(t - head.begin);
  const S decay = w.decay[i];
  const S* x = head.x(t);
  for (int64_t p = 0; p < head.a.shape.head_dim; ++p) {
    const S input = w.dt[i] * x[p];
    for (int64_t n = 0; n < w.pitch; n += kLanes) {
      lanes_at(after + p * w.pitch + n) = lanes_at(before + p * w.pitch + n) * decay + lanes_at(b + n) * input;
    }
  }
}

// States at the starts of the chunks of a sequence into checkpoints [chunks, H, P, N padded].
template <class S>
void write_checkpoints(const Head<S>& head, Workspace<S>& w, S* checkpoints) {
  const int64_t stride = head.a.shape.heads * w.state_size;
  S* state = w.states.data();
  load_rows(head.initial(), head.a.shape, w.pitch, state);
  for (int64_t first = head.begin; first < head.end; first += kChunk) {
    std::copy_n(state, w.state_size, checkpoints + (first - head.begin) / kChunk * stride + head.h * w.state_size);
    const int64_t last = std::min(first + kChunk, head.end);
    if (last == head.end) break;
    w.load_chunk(head, first, last);
    for (int64_t t = first; t < last; ++t) {
      advance_state(head, t, w, w.b.data() + (t - first) * w.pitch, state, state);
    }
  }
}

// The sweep of one token over the state. On entry dstate is that of token t+1 and `carry` its decay (of the
// last token: the final state's gradient and 1). Fills w.dx (lane
// sums of dstate B), w.db (dstate^T x) and w.dc (state^T dy); returns <dstate, state before t>.
template <class S>
S backward_state(const Head<S>& head, int64_t t, const S& carry, const S* before, const S* b, const S* c,
                 Workspace<S>& w) {
  const int64_t p_count = head.a.shape.head_dim;
  const int64_t pitch = w.pitch;
  const S* after = before + w.state_size;
  const S* x = head.x(t);
  const S* dy = head.a.dy + t * head.a.dy_stride + head.h * p_count;
  S* dstate = w.dstate.data();
  S* dx = w.dx.data();
  const S decay = carry;
  std::fill(w.dx.begin(), w.dx.end(), S(0));
  Lanes<S> overlap{};
  for_tiles(pitch, [&](auto tiles, int64_t first) {
    Lanes<S> b_lanes[tiles], c_lanes[tiles], db[tiles], dc[tiles], dot[tiles];
    for (int i = 0; i < tiles; ++i) {
      b_lanes[i] = lanes_at(b + first + i * kLanes);
      c_lanes[i] = lanes_at(c + first + i * kLanes);
      db[i] = dc[i] = dot[i] = Lanes<S>{};
    }
    for (int64_t p = 0; p < p_count; ++p) {
      const int64_t row = p * pitch + first;
      Lanes<S> along_b = lanes_at(dx + p * kLanes);
      for (int i = 0; i < tiles; ++i) {
        const Lanes<S> d = lanes_at(dstate + row + i * kLanes) * decay + c_lanes[i] * dy[p];
        lanes_at(dstate + row + i * kLanes) = d;
        db[i] += d * x[p];
        dc[i] += lanes_at(after + row + i * kLanes) * dy[p];
        dot[i] += d * lanes_at(before + row + i * kLanes);
        along_b += d * b_lanes[i];
      }
      lanes_at(dx + p * kLanes) = along_b;
    }
    for (int i = 0; i < tiles; ++i) {
      lanes_at(w.db.data() + first + i * kLanes) = db[i];
      lanes_at(w.dc.data() + first + i * kLanes) = dc[i];
      overlap += dot[i];
    }
  });
  return sum_lanes<S>(overlap);
}

// Gradients of token t from its sweep; adds to weights[3] (A_log, D, dt_bias).
template <class S>
void write_token_gradients(const Head<S>& head, int64_t t, const S& overlap, const Workspace<S>& w,
                           const BackwardScratch<S>& scratch, S* weights) {
  const SsdArgs<S>& a = head.a;
  const int64_t p_count = a.shape.head_dim;
  const int64_t n_count = a.shape.state;
  const int64_t row = t * a.shape.heads + head.h;
  const auto i = static_cast<size_t>(t - head.begin);
  const S* x = head.x(t);
  const S* dy = a.dy + t * a.dy_stride + head.h * p_count;
  S along_x(0);
  S skip(0);
  for (int64_t p = 0; p < p_count; ++p) {
    const S sum = sum_lanes<S>(lanes_at(w.dx.data() + p * kLanes));
    along_x += x[p] * sum;
    skip += x[p] * dy[p];
    if (a.dx != nullptr) scratch.dx[row * p_count + p] = w.dt[i] * sum + a.d[head.h] * dy[p];
  }
  for (int64_t n = 0; n < n_count && a.db != nullptr; ++n) {
    scratch.db[row * n_count + n] = w.dt[i] * w.db[static_cast<size_t>(n)];
  }
  if (a.dc != nullptr) std::copy_n(w.dc.data(), n_count, scratch.dc + row * n_count);
  const S dexponent = w.decay[i] * overlap;  // of the exponent dt A
  const S ddt = (along_x + head.rate * dexponent) * scalar_sigmoid(head.raw_dt(t));
  if (a.ddt != nullptr) {
    S& out = a.ddt[t * a.ddt_stride + head.h];
    out = a.ddt_accumulate ? out + ddt : ddt;
  }
  weights[0] += w.dt[i] * dexponent * head.rate;
  weights[1] += skip;
  weights[2] += ddt;
}

// After the sweep; of a sequence without tokens it is the gradient of the final state.
template <class S>
void write_initial_gradient(const Head<S>& head, const S& carry, const Workspace<S>& w) {
  const int64_t n_count = head.a.shape.state;
  S* to = head.a.dinitial + head.state_offset(head.b);
  for (int64_t p = 0; p < head.a.shape.head_dim; ++p) {
    for (int64_t n = 0; n < n_count; ++n) to[p * n_count + n] = w.dstate[static_cast<size_t>(p * w.pitch + n)] * carry;
  }
}

template <class S>
void backward_head(const Head<S>& head, Workspace<S>& w, const BackwardScratch<S>& scratch) {
  S* weights = scratch.weights + (head.b * head.a.shape.heads + head.h) * 3;
  std::fill_n(weights, 3, S(0));
  w.start(head);
  const int64_t stride = head.a.shape.heads * w.state_size;
  S* checkpoints = scratch.checkpoints + (head.begin / kChunk + head.b) * stride;
  write_checkpoints(head, w, checkpoints);
  S carry(1);
  const int64_t chunks = (head.end - head.begin + kChunk - 1) / kChunk;
  for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
    const int64_t first = head.begin + chunk * kChunk;
    const int64_t last = std::min(first + kChunk, head.end);
    w.load_chunk(head, first, last);
    S* states = w.states.data();
    std::copy_n(checkpoints + chunk * stride + head.h * w.state_size, w.state_size, states);
    for (int64_t t = first; t < last; ++t) {
      S* before = states + (t - first) * w.state_size;
      advance_state(head, t, w, w.b.data() + (t - first) * w.pitch, before, before + w.state_size);
    }
    for (int64_t t = last - 1; t >= first; --t) {
      const int64_t i = t - first;
      const S overlap = backward_state(head, t, carry, states + i * w.state_size, w.b.data() + i * w.pitch,
                                       w.c.data() + i * w.pitch, w);
      write_token_gradients(head, t, overlap, w, scratch, weights);
      carry = w.decay[static_cast<size_t>(t - head.begin)];
    }
  }
  if (head.a.dinitial != nullptr) write_initial_gradient(head, carry, w);
}

// out [T, groups*width] (+)= sums over the heads of each group of in [T, H, width], head after head.
template <class S>
void sum_heads(const S* in, int64_t tokens, int64_t heads, int64_t groups, int64_t width, S* out, int64_t stride,
               bool accumulate) {
  const int64_t per_group = heads / groups;
#pragma omp parallel for schedule(static)
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t g = 0; g < groups; ++g) {
      S* to = out + t * stride + g * width;
      const S* from = in + (t * heads + g * per_group) * width;
      if (!accumulate) std::fill_n(to, width, S(0));
      for (int64_t h = 0; h < per_group; ++h) {
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) to[i] += from[h * width + i];
      }
    }
  }
}

}  // namespace ssd_cpu

template <class S>
void ssd_forward_cpu(const SsdArgs<S>& a) {
#pragma omp parallel
  {
    std::vector<S> buffer;
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t b = 0; b < a.batch; ++b) {
      for (int64_t h = 0; h < a.shape.heads; ++h) ssd_cpu::forward_head(ssd_cpu::Head<S>(a, b, h), buffer);
    }
  }
}

// Elements of scratch that the backward op needs.
template <class S>
int64_t ssd_backward_scratch(const SsdArgs<S>& a) {
  return ssd_cpu::BackwardScratch<S>(a, static_cast<S*>(nullptr)).size;
}

template <class S>
void ssd_backward_cpu(const SsdArgs<S>& a, S* scratch_memory) {
  using namespace ssd_cpu;
  const SsdShape& s = a.shape;
  const BackwardScratch<S> scratch(a, scratch_memory);
#pragma omp parallel
  {
    Workspace<S> workspace(a);
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t b = 0; b < a.batch; ++b) {
      for (int64_t h = 0; h < s.heads; ++h) backward_head(Head<S>(a, b, h), workspace, scratch);
    }
  }
  if (a.dx != nullptr) {
    sum_heads(scratch.dx, a.tokens, s.heads, s.x_groups, s.head_dim, a.dx, a.dx_stride, a.dx_accumulate);
  }
  if (a.db != nullptr) {
    sum_heads(scratch.db, a.tokens, s.heads, s.b_groups, s.state, a.db, a.db_stride, a.db_accumulate);
  }
  if (a.dc != nullptr) {
    sum_heads(scratch.dc, a.tokens, s.heads, s.c_groups, s.state, a.dc, a.dc_stride, a.dc_accumulate);
  }
  S* const sums[3] = {a.da_log, a.dd, a.ddt_bias};
  for (int64_t i = 0; i < 3; ++i) {
    for (int64_t row = 0; row < a.batch * s.heads && sums[i] != nullptr; ++row) {
      sums[i][row % s.heads] += scratch.weights[row * 3 + i];
    }
  }
}

}  // namespace matvlm
