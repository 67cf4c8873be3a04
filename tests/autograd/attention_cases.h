// The cases of the attention tests and their double oracle, shared by the CPU and the CUDA suites.
#pragma once

#include <omp.h>

#include <cmath>
#include <ostream>
#include <string>
#include <vector>

#include "autograd/ops/attention.h"
#include "autograd/ops/attention_cpu.h"
#include "autograd/ops/attention_dnn.h"
#include "autograd/ops/rotary_cpu.h"
#include "core/gemm.h"
#include "tests/support/op_check.h"

namespace matvlm::testing {

struct AttentionCase {
  std::string name;
  std::vector<int64_t> lengths;
  int64_t heads, kv_heads, head_dim;
  bool causal;

  AttentionShape shape() const {
    return {heads, kv_heads, head_dim, causal, 1.0 / std::sqrt(static_cast<double>(head_dim))};
  }
  std::vector<int64_t> cu() const {
    std::vector<int64_t> out = {0};
    for (const int64_t n : lengths) out.push_back(out.back() + n);
    return out;
  }
  int64_t tokens() const { return cu().back(); }
  int64_t longest() const { return *std::max_element(lengths.begin(), lengths.end()); }
  int64_t width() const { return heads * head_dim; }
  int64_t kv_width() const { return kv_heads * head_dim; }
};
inline std::ostream& operator<<(std::ostream& out, const AttentionCase& c) { return out << c.name; }

// Lengths around the tile sizes (32, 64), ragged rows, sequences without tokens, every head width in use.
inline std::vector<AttentionCase> attention_cases() {
  return {
      {"one token", {1}, 1, 1, 16, true},
      {"two tokens", {2}, 3, 1, 20, true},
      {"63 full", {63}, 4, 2, 64, false},
      {"64", {64}, 3, 3, 72, true},
      {"65", {65}, 2, 1, 80, true},
      {"65 full", {65}, 3, 3, 72, false},
      {"130 wide heads", {130}, 2, 1, 128, true},
      {"255", {255}, 2, 2, 20, true},
      {"256 full", {256}, 2, 1, 16, false},
      {"257", {257}, 3, 1, 80, true},
      {"300", {300}, 5, 5, 64, true},
      {"300 full", {300}, 3, 1, 72, false},
      {"ragged", {257, 1, 64}, 6, 2, 80, true},
      {"ragged full", {2, 255, 63}, 3, 3, 72, false},
      {"ragged one key head", {65, 300, 256}, 4, 1, 20, true},
      {"empty sequences", {0, 5, 0, 66, 0}, 4, 2, 32, true},
      {"empty sequences full", {0, 3, 70}, 2, 2, 48, false},
  };
}

struct AttentionValues {
  std::vector<double> q, k, v, grad_out;
};

// Standard normal, rounded to what `dtype` can hold, so that every implementation sees the same numbers.
inline AttentionValues attention_values(const AttentionCase& c, DType dtype, double q_scale = 1.0) {
  const auto make = [&](const char* name, int64_t n, double scale) {
    const std::vector<double> x = random_values(c.name + name, n, scale);
    if (dtype == DType::bf16) return round_bf16(x);
    return dtype == DType::f32 ? convert<double>(convert<float>(x)) : x;
  };
  const int64_t t = c.tokens();
  return {make("q", t * c.width(), q_scale), make("k", t * c.kv_width(), 1), make("v", t * c.kv_width(), 1),
          make("w", t * c.width(), 1)};
}

inline AttentionRanges host_ranges(const AttentionCase& c, const std::vector<int64_t>& cu) {
  return {static_cast<int64_t>(c.lengths.size()),
          c.longest(),
          c.longest(),
          cu.data(),
          cu.data() + 1,
          cu.data(),
          cu.data() + 1};
}

// Threads for the raw CPU ops. Their products run inside a parallel region, one a thread: an OpenBLAS that keeps a pool
// of threads of its own would use that pool from all of them at once, and the two pools wait for each other.
inline int oracle_threads() {
  set_blas_threads(1);
  return omp_get_max_threads();
}

// Contiguous tensors around the raw CPU op. `cu` must outlive the result.
template <class T>
AttentionForwardArgs<T, T> forward_args(const AttentionCase& c, const std::vector<int64_t>& cu, const T* q, const T* k,
                                        const T* v, T* out, T* lse) {
  AttentionForwardArgs<T, T> a;
  a.shape = c.shape();
  a.ranges = host_ranges(c, cu);
  a.tokens = c.tokens();
  a.kv_rows = c.tokens();
  a.q = q;
  a.k = k;
  a.v = v;
  a.out = out;
  a.q_stride = c.width();
  a.k_stride = c.kv_width();
  a.v_stride = c.kv_width();
  a.out_stride = c.width();
  a.lse = lse;
  return a;
}

template <class T>
std::vector<T> raw_forward(const AttentionCase& c, const std::vector<T>& q, const std::vector<T>& k,
                           const std::vector<T>& v) {
  const std::vector<int64_t> cu = c.cu();
  std::vector<T> out(q.size());
  const int threads = oracle_threads();
  const auto args = forward_args<T>(c, cu, q.data(), k.data(), v.data(), out.data(), nullptr);
  std::vector<T> scratch(static_cast<size_t>(attention_scratch_cpu(args.ranges, 1, threads)));
  attention_forward_cpu(args, scratch.data(), threads);
  return out;
}

template <class T>
struct AttentionResult {
  std::vector<T> out, dq, dk, dv;
};

// Forward and backward through the raw CPU ops; every output and scratch between guard bands. bf16_output: the output
// is rounded to bf16 before backward reads it, as where it is saved in that type.
template <class T>
AttentionResult<T> raw_gradients(const AttentionCase& c, const AttentionValues& values, bool bf16_output = false) {
  const std::vector<int64_t> cu = c.cu();
  const auto q = convert<T>(values.q);
  const auto k = convert<T>(values.k);
  const auto v = convert<T>(values.v);
  const auto grad_out = convert<T>(values.grad_out);
  const auto n = [](const auto& x) { return static_cast<int64_t>(x.size()); };
  const int threads = oracle_threads();
  Guarded<T> out(n(q)), lse(c.heads * c.tokens()), delta(c.heads * c.tokens());
  Guarded<T> dq(n(q)), dk(n(k)), dv(n(v));
  AttentionBackwardArgs<T, T> a;
  a.forward = forward_args<T>(c, cu, q.data(), k.data(), v.data(), out.data(), lse.data());
  a.grad_out = grad_out.data();
  a.grad_out_stride = c.width();
  a.delta = delta.data();
  a.dq = dq.data();
  a.dk = dk.data();
  a.dv = dv.data();
  a.dq_stride = c.width();
  a.dk_stride = c.kv_width();
  a.dv_stride = c.kv_width();
  std::vector<T> scratch(static_cast<size_t>(attention_scratch_cpu(a.forward.ranges, 2, threads)),
                         T(std::numeric_limits<double>::quiet_NaN()));
  attention_forward_cpu(a.forward, scratch.data(), threads);
  if (bf16_output) {
    const std::vector<double> rounded = round_bf16(convert<double>(out.values()));
    for (size_t i = 0; i < rounded.size(); ++i) out.data()[i] = static_cast<T>(rounded[i]);
  }
  std::fill(scratch.begin(), scratch.end(), T(std::numeric_limits<double>::quiet_NaN()));
  attention_backward_cpu(a, scratch.data(), threads);
  out.check(c.name + " out");
  lse.check(c.name + " lse");
  delta.check(c.name + " delta");
  dq.check(c.name + " dq");
  dk.check(c.name + " dk");
  dv.check(c.name + " dv");
  return {out.values(), dq.values(), dk.values(), dv.values()};
}

// The value and the gradients of the node, with q, k and v as column ranges of one packed projection [T, (H + 2K) P].
// dnn: by cuDNN.
inline AttentionResult<float> node_gradients(Context& ctx, const AttentionCase& c, const AttentionValues& values,
                                             DType dtype, const std::shared_ptr<DnnAttention>& dnn = nullptr) {
  const int64_t t = c.tokens();
  const int64_t width = c.width();
  const int64_t kv = c.kv_width();
  std::vector<float> packed(static_cast<size_t>(t * (width + 2 * kv)));
  for (int64_t i = 0; i < t; ++i) {
    float* row = packed.data() + i * (width + 2 * kv);
    for (int64_t j = 0; j < width; ++j) row[j] = static_cast<float>(values.q[static_cast<size_t>(i * width + j)]);
    for (int64_t j = 0; j < kv; ++j) {
      row[width + j] = static_cast<float>(values.k[static_cast<size_t>(i * kv + j)]);
      row[width + kv + j] = static_cast<float>(values.v[static_cast<size_t>(i * kv + j)]);
    }
  }
  Graph g(ctx);
  const Var x = g.input(Tensor::from_floats(ctx, packed, {t, width + 2 * kv}, dtype));
  const Var q = g.slice_cols(x, 0, width);
  const Var k = g.slice_cols(x, width, width + kv);
  const Var v = g.slice_cols(x, width + kv, width + 2 * kv);
  const SeqlensPtr lens = make_seqlens(ctx, c.cu());
  const Var out =
      dnn == nullptr ? attention(g, c.shape(), q, k, v, lens) : attention_dnn(g, dnn, c.shape(), q, k, v, lens);
  AttentionResult<float> result;
  result.out = out.value().to_floats(ctx);
  g.backward(out, Tensor::from_floats(ctx, convert<float>(values.grad_out), {t, width}, dtype));
  result.dq = x.grad().slice_cols(0, width).to_floats(ctx);
  result.dk = x.grad().slice_cols(width, width + kv).to_floats(ctx);
  result.dv = x.grad().slice_cols(width + kv, width + 2 * kv).to_floats(ctx);
  return result;
}

// Positions count from 0 in every sequence.
inline std::vector<int32_t> positions_of(const AttentionCase& c) {
  std::vector<int32_t> out;
  for (const int64_t n : c.lengths) {
    for (int64_t i = 0; i < n; ++i) out.push_back(static_cast<int32_t>(i));
  }
  return out;
}

inline std::vector<double> frequencies_of(int64_t rotary_dims) {
  std::vector<double> out;
  for (int64_t i = 0; i < rotary_dims / 2; ++i) {
    out.push_back(std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dims)));
  }
  return out;
}

// x [T, heads * P], the gradient of rotated rows, turned back to before the rotation.
inline std::vector<double> turned_back(const AttentionCase& c, int64_t rotary_dims, const std::vector<double>& x) {
  const std::vector<int32_t> positions = positions_of(c);
  const std::vector<double> frequencies = frequencies_of(rotary_dims);
  std::vector<double> y = x;
  std::vector<double> table(static_cast<size_t>(c.tokens() * rotary_dims));
  RotaryArgs<double> a;
  a.tokens = c.tokens();
  a.x_stride = a.y_stride = static_cast<int64_t>(x.size()) / a.tokens;
  a.heads = a.x_stride / c.head_dim;
  a.head_dim = c.head_dim;
  a.rotary_dims = rotary_dims;
  a.inverse = true;
  a.positions = positions.data();
  a.frequencies = frequencies.data();
  a.x = a.y = y.data();
  rotary_cpu(a, table.data());
  return y;
}

template <class T>
double norm(const std::vector<T>& x) {
  double sum = 0;
  for (const T& value : x) sum += static_cast<double>(value) * static_cast<double>(value);
  return std::sqrt(sum);
}

// A single visible key has probability 1 whatever q and k are, so the exact dq and dk are 0 there, and what an
// implementation gives is the rounding of dp - delta.
inline bool is_zero_gradient(const std::vector<double>& exact, const AttentionValues& values) {
  return norm(exact) < 1e-9 * norm(values.grad_out);
}

// float32: norm of the difference over norm of the exact.
inline void expect_float_close(const std::vector<float>& found, const std::vector<double>& exact,
                               const AttentionValues& values, double tolerance, const std::string& what) {
  if (is_zero_gradient(exact, values)) {
    EXPECT_LE(norm(found), tolerance * norm(values.grad_out)) << what;
  } else {
    EXPECT_LE(relative_error(found, exact), tolerance) << what;
  }
}

}  // namespace matvlm::testing
