// Attention on the CPU, for float, double and std::complex<double> (forward only for the last: complex step). A head of
// a sequence is done in blocks of query rows: logits by gemm into a scratch tile, softmax, product with v. Parallel
// over (sequence, head); every product inside runs on one thread, so results do not depend on the number of threads.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>

#include "autograd/ops/attention.h"
#include "autograd/ops/attention_rows.h"
#include "core/gemm.h"
#include "core/scalar.h"

namespace matvlm {

inline constexpr int64_t kAttentionRowBlock = 64;

// Elements of scratch that the CPU ops need: `tiles` tiles per thread, 1 for the forward and 2 for the backward op.
inline int64_t attention_scratch_cpu(const AttentionRanges& ranges, int64_t tiles, int threads) {
  return threads * tiles * std::min(kAttentionRowBlock, ranges.longest_q) * ranges.longest_k;
}

// A block of query rows of one sequence and head, with the keys it can see.
struct AttentionBlock {
  int64_t q_row = 0;    // first query row
  int64_t rows = 0;     // query rows
  int64_t k_row = 0;    // first key row
  int64_t columns = 0;  // keys that the last query row sees
  int64_t hidden = 0;   // of those, keys that the first query row does not see: one less per further row when causal

  int64_t visible(int64_t i) const { return columns - std::max<int64_t>(hidden - i, 0); }
};

// Calls f for the blocks of sequence b.
template <class F>
void for_each_attention_block(const AttentionRanges& r, bool causal, int64_t b, F&& f) {
  const int64_t queries = r.q_end[b] - r.q_begin[b];
  const int64_t keys = r.k_end[b] - r.k_begin[b];
  for (int64_t first = 0; first < queries; first += kAttentionRowBlock) {
    AttentionBlock block;
    block.q_row = r.q_begin[b] + first;
    block.rows = std::min(kAttentionRowBlock, queries - first);
    block.k_row = r.k_begin[b];
    block.columns = causal ? keys - queries + first + block.rows : keys;
    block.hidden = causal ? block.rows - 1 : 0;
    f(block);
  }
}

// One row of logits -> exp(logits - max), 0 where a key is not visible; its maximum and sum.
template <class T>
void attention_softmax_row(T* s, int64_t visible, int64_t columns, T* max, T* sum) {
  *max = row_max(s, visible);
  *sum = row_exp_sum(s, visible, *max);
  std::fill(s + visible, s + columns, T(0));
}

template <class T>
void attention_forward_block(const AttentionForwardArgs<T, T>& a, const AttentionBlock& block, int64_t h, T* tile) {
  const int64_t p = a.shape.head_dim;
  const int64_t kv = h / (a.shape.heads / a.shape.kv_heads) * p;
  const int64_t n = block.columns;
  gemm_cpu<T>(false, true, block.rows, n, p, T(a.shape.scale), a.q + block.q_row * a.q_stride + h * p, a.q_stride,
              a.k + block.k_row * a.k_stride + kv, a.k_stride, T(0), tile, n);
  T max[kAttentionRowBlock];
  T sum[kAttentionRowBlock];
  for (int64_t i = 0; i < block.rows; ++i) attention_softmax_row(tile + i * n, block.visible(i), n, max + i, sum + i);
  T* out = a.out + block.q_row * a.out_stride + h * p;
  gemm_cpu<T>(false, false, block.rows, p, n, T(1), tile, n, a.v + block.k_row * a.v_stride + kv, a.v_stride, T(0), out,
              a.out_stride);
  for (int64_t i = 0; i < block.rows; ++i) {
    const T inverse = T(1) / sum[i];
    for (int64_t d = 0; d < p; ++d) out[i * a.out_stride + d] *= inverse;
    if (a.lse != nullptr) a.lse[h * a.tokens + block.q_row + i] = max[i] + scalar_log(sum[i]);
  }
}

// scratch: attention_scratch_cpu(ranges, 1, threads) elements.
template <class T>
void attention_forward_cpu(const AttentionForwardArgs<T, T>& a, T* scratch, int threads) {
  const int64_t heads = a.shape.heads;
  const int64_t per_thread = attention_scratch_cpu(a.ranges, 1, 1);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t item = 0; item < a.ranges.batch * heads; ++item) {
    T* tile = scratch + omp_get_thread_num() * per_thread;
    for_each_attention_block(a.ranges, a.shape.causal, item / heads, [&](const AttentionBlock& block) {
      attention_forward_block(a, block, item % heads, tile);
    });
  }
}

// tile <- probabilities, from the saved log-sum-exp.
template <class T>
void attention_probabilities_block(const AttentionForwardArgs<T, T>& a, const AttentionBlock& block, int64_t h,
                                   T* tile) {
  const int64_t p = a.shape.head_dim;
  const int64_t kv = h / (a.shape.heads / a.shape.kv_heads) * p;
  const int64_t n = block.columns;
  gemm_cpu<T>(false, true, block.rows, n, p, T(a.shape.scale), a.q + block.q_row * a.q_stride + h * p, a.q_stride,
              a.k + block.k_row * a.k_stride + kv, a.k_stride, T(0), tile, n);
  for (int64_t i = 0; i < block.rows; ++i) {
    T* s = tile + i * n;
    row_exp_sum(s, block.visible(i), a.lse[h * a.tokens + block.q_row + i]);
    std::fill(s + block.visible(i), s + n, T(0));
  }
}

template <class T>
void attention_backward_block(const AttentionBackwardArgs<T, T>& a, const AttentionBlock& block, int64_t h, T* tile,
                              T* grad_tile) {
  const AttentionForwardArgs<T, T>& f = a.forward;
  const int64_t p = f.shape.head_dim;
  const int64_t kv = h / (f.shape.heads / f.shape.kv_heads) * p;
  const int64_t n = block.columns;
  const int64_t rows = block.rows;
  const T* grad_out = a.grad_out + block.q_row * a.grad_out_stride + h * p;
  const T* out = f.out + block.q_row * f.out_stride + h * p;
  attention_probabilities_block(f, block, h, tile);
  if (a.dv != nullptr) {
    gemm_cpu<T>(true, false, n, p, rows, T(1), tile, n, grad_out, a.grad_out_stride, T(1),
                a.dv + block.k_row * a.dv_stride + kv, a.dv_stride);
  }
  if (a.dq == nullptr && a.dk == nullptr) return;
  gemm_cpu<T>(false, true, rows, n, p, T(1), grad_out, a.grad_out_stride, f.v + block.k_row * f.v_stride + kv,
              f.v_stride, T(0), grad_tile, n);
  for (int64_t i = 0; i < rows; ++i) {
    // The softmax's gradient: p (dp - sum p dp), and that sum is <grad_out, out>.
    const T delta = row_dot(grad_out + i * a.grad_out_stride, out + i * f.out_stride, p);
    a.delta[h * f.tokens + block.q_row + i] = delta;
    for (int64_t j = 0; j < n; ++j) grad_tile[i * n + j] = tile[i * n + j] * (grad_tile[i * n + j] - delta);
  }
  const T scale = T(f.shape.scale);
  if (a.dq != nullptr) {
    gemm_cpu<T>(false, false, rows, p, n, scale, grad_tile, n, f.k + block.k_row * f.k_stride + kv, f.k_stride,
                a.accumulate_dq ? T(1) : T(0), a.dq + block.q_row * a.dq_stride + h * p, a.dq_stride);
  }
  if (a.dk != nullptr) {
    gemm_cpu<T>(true, false, n, p, rows, scale, grad_tile, n, f.q + block.q_row * f.q_stride + h * p, f.q_stride, T(1),
                a.dk + block.k_row * a.dk_stride + kv, a.dk_stride);
  }
}

// Rows [begin, end) of the P columns at x become 0.
template <class T>
void attention_zero_rows(T* x, int64_t stride, int64_t begin, int64_t end, int64_t p) {
  for (int64_t i = begin; i < end; ++i) std::fill(x + i * stride, x + i * stride + p, T(0));
}

// scratch: attention_scratch_cpu(ranges, 2, threads) elements. Parallel over key heads, whose query heads add into dk
// and dv one after the other.
template <class T>
void attention_backward_cpu(const AttentionBackwardArgs<T, T>& a, T* scratch, int threads) {
  const AttentionForwardArgs<T, T>& f = a.forward;
  const int64_t kv_heads = f.shape.kv_heads;
  const int64_t group = f.shape.heads / kv_heads;
  const int64_t p = f.shape.head_dim;
  const int64_t tile_size = attention_scratch_cpu(f.ranges, 1, 1);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t item = 0; item < f.ranges.batch * kv_heads; ++item) {
    const int64_t b = item / kv_heads;
    const int64_t kv = item % kv_heads;
    const int64_t begin = f.ranges.k_begin[b];
    const int64_t end = f.ranges.k_end[b];
    T* tile = scratch + omp_get_thread_num() * 2 * tile_size;
    if (a.dk != nullptr && !a.accumulate_dk) attention_zero_rows(a.dk + kv * p, a.dk_stride, begin, end, p);
    if (a.dv != nullptr && !a.accumulate_dv) attention_zero_rows(a.dv + kv * p, a.dv_stride, begin, end, p);
    for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
      for_each_attention_block(f.ranges, f.shape.causal, b, [&](const AttentionBlock& block) {
        attention_backward_block(a, block, h, tile, tile + tile_size);
      });
    }
  }
}

}  // namespace matvlm
