// Kernels of head_loss that run on every device: one block per row of logits, float32 mathematics, losses summed in
// float64 in a fixed order.
#include "autograd/ops/head_loss.h"
#include "autograd/ops/head_loss_row.cuh"
#include "autograd/ops/loss_block.cuh"
#include "core/cuda_context.h"

namespace matvlm {
namespace {

constexpr int kThreads = 512;

__device__ Softmax merge(const Softmax& a, const Softmax& b, float inverse) {
  const bool take_b = b.max > a.max || (b.max == a.max && b.index < a.index);
  const Softmax& top = take_b ? b : a;
  Softmax out;
  out.max = top.max;
  out.index = top.index;
  out.sum = a.sum * rescale(a.max, top.max, 1.0F) + b.sum * rescale(b.max, top.max, 1.0F);
  out.sum_tau = a.sum_tau * rescale(a.max, top.max, inverse) + b.sum_tau * rescale(b.max, top.max, inverse);
  return out;
}

__device__ Softmax shuffle_xor(const Softmax& x, int offset) {
  constexpr unsigned kAll = 0xffffffffU;
  Softmax out;
  out.max = __shfl_xor_sync(kAll, x.max, offset);
  out.index = __shfl_xor_sync(kAll, x.index, offset);
  out.sum = __shfl_xor_sync(kAll, x.sum, offset);
  out.sum_tau = __shfl_xor_sync(kAll, x.sum_tau, offset);
  return out;
}

// Of a whole row, for every thread. The bits depend on the row alone, so equal rows give equal results.
__device__ Softmax row_softmax(const float* x, int64_t n, float inverse) {
  __shared__ Softmax partial[kThreads / 32];
  Softmax s = {-INFINITY, 0, 0.0F, 0.0F};
  for (int64_t v = threadIdx.x; v < n; v += kThreads) {
    const float value = x[v];
    if (value > s.max) {
      s.sum = s.sum * expf(s.max - value) + 1.0F;
      s.sum_tau = s.sum_tau * expf((s.max - value) * inverse) + 1.0F;
      s.max = value;
      s.index = static_cast<int32_t>(v);
    } else {
      s.sum += expf(value - s.max);  // NaN arrives here and stays
      s.sum_tau += expf((value - s.max) * inverse);
    }
  }
  // Lower lanes hold lower indices, but merge() looks at the index itself. The lower lane's operand comes first, so
  // that both lanes of a pair compute the same bits.
  for (int offset = 1; offset < 32; offset *= 2) {
    const Softmax other = shuffle_xor(s, offset);
    s = (threadIdx.x & offset) == 0 ? merge(s, other, inverse) : merge(other, s, inverse);
  }
  __syncthreads();  // a previous row may still be read
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = s;
  __syncthreads();
  Softmax out = partial[0];
  for (int w = 1; w < kThreads / 32; ++w) out = merge(out, partial[w], inverse);
  return out;
}

struct RowResult {
  double loss;
  float coefficient;  // of grad_element
  float mean;
};

// Loss of a row that compares all logits of the two.
template <LogitKind kKind>
__device__ RowResult row_loss(const Pair& row, const float* s, const float* t, int64_t n, double weight,
                              double temperature, bool segment_norm) {
  double sum = 0;
  double mean = 0;
  for (int64_t v = threadIdx.x; v < n; v += kThreads) {
    sum += loss_element<kKind>(row, s[v], t[v]);
    if constexpr (kKind == LogitKind::jsd) mean += row.q(s[v]) * log_over_mean(row.d(s[v], t[v]));
  }
  sum = block_sum<kThreads>(sum);
  if constexpr (kIsDistribution<kKind>) {
    if constexpr (kKind == LogitKind::jsd) mean = block_sum<kThreads>(mean);
    if constexpr (kKind == LogitKind::reverse_kl) mean = sum;
    return {temperature * temperature * sum, static_cast<float>(weight * temperature), static_cast<float>(mean)};
  }
  if (segment_norm) return {sum, static_cast<float>(weight), 0.0F};
  const double norm = sqrt(sum);
  return {norm, sum == 0 ? 0.0F : static_cast<float>(weight / norm), 0.0F};
}

// grad may be the student's row itself: every thread writes only elements that it alone reads.
template <LogitKind kKind, class G>
__global__ void __launch_bounds__(kThreads) head_rows_kernel(HeadRows<float, G> a) {
  constexpr bool kComparesAll = kIsDistribution<kKind> || kKind == LogitKind::logit_l2;
  const int64_t r = blockIdx.x;
  const float* s = a.student + r * a.vocab;
  const double logit_weight = kKind == LogitKind::none ? 0.0 : a.logit_coefficient[r];
  const double ce_weight = a.ce_coefficient == nullptr ? 0.0 : a.ce_coefficient[r];
  const bool logit = logit_weight != 0;
  const float* t = logit ? a.teacher + r * a.vocab : s;
  const auto inverse = static_cast<float>(1.0 / a.temperature);
  const Softmax soft_s = row_softmax(s, a.vocab, inverse);
  const Softmax soft_t = logit ? row_softmax(t, a.vocab, inverse) : soft_s;

  // Cross entropies share softmax(s) at temperature 1. Their logits are read before any gradient is written.
  const float log_sum = logf(soft_s.sum);
  const int32_t target = ce_weight == 0 ? -1 : a.target[r];
  const int32_t top = kKind == LogitKind::argmax_ce && logit ? soft_t.index : -1;
  const double ce_loss = target < 0 ? 0.0 : static_cast<double>(log_sum) - (s[target] - soft_s.max);
  RowResult row = {0.0, 0.0F, 0.0F};
  // A NaN of the teacher must not go unnoticed: its maximum minus itself is 0 or NaN.
  if (top >= 0) row.loss = static_cast<double>(log_sum) - (s[top] - soft_s.max) + (t[top] - t[top]);
  const Pair pair(soft_s, soft_t, inverse);
  if constexpr (kComparesAll) {
    if (logit) {
      row = row_loss<kKind>(pair, s, t, a.vocab, logit_weight * a.logit_scale, a.temperature, a.segment_norm);
    }
  }
  __syncthreads();
  if (a.grad != nullptr) {
    const auto ce = static_cast<float>(ce_weight * a.ce_scale);
    const auto argmax_ce = top < 0 ? 0.0F : static_cast<float>(logit_weight * a.logit_scale);
    const auto softmax = static_cast<float>(ce_weight * a.ce_scale + (top < 0 ? 0.0 : logit_weight * a.logit_scale));
    G* grad = a.grad + r * a.vocab;
    for (int64_t v = threadIdx.x; v < a.vocab; v += kThreads) {
      const float sv = s[v];
      float g = 0;
      if constexpr (kComparesAll) {
        if (logit) g = grad_element<kKind>(pair, sv, t[v], row.coefficient, row.mean);
      }
      if (softmax != 0) g += softmax * expf((sv - soft_s.max) - log_sum);
      if (v == target) g -= ce;
      if (v == top) g -= argmax_ce;
      grad[v] = G(g);
    }
  }
  if (threadIdx.x != 0) return;
  a.logit_loss[r] = row.loss;
  a.ce_loss[r] = ce_loss;
  a.agree[r] = logit && soft_s.index == soft_t.index ? 1 : 0;
  a.correct[r] = target >= 0 && soft_s.index == target ? 1 : 0;
}

// One block.
__global__ void head_totals_kernel(HeadTotals a) {
  double logit = 0, ce = 0, agree = 0, logit_rows = 0, correct = 0, label_rows = 0;
  for (int64_t i = threadIdx.x; i < a.logit_items; i += kThreads) {
    if (a.logit_weight[i] != 0) logit += a.logit_weight[i] * a.logit_loss[i];
  }
  for (int64_t r = threadIdx.x; r < a.rows; r += kThreads) {
    if (a.row_weight != nullptr && a.row_weight[r] != 0) {
      logit_rows += 1;
      agree += a.agree[r];
    }
    if (a.ce_weight != nullptr && a.ce_weight[r] != 0) {
      ce += a.ce_weight[r] * a.ce_loss[r];
      label_rows += 1;
      correct += a.correct[r];
    }
  }
  logit = block_sum<kThreads>(logit);
  ce = block_sum<kThreads>(ce);
  agree = block_sum<kThreads>(agree);
  logit_rows = block_sum<kThreads>(logit_rows);
  correct = block_sum<kThreads>(correct);
  label_rows = block_sum<kThreads>(label_rows);
  if (threadIdx.x != 0) return;
  *a.logit_term = logit;
  *a.ce_term = ce;
  *a.loss = static_cast<float>(a.logit_scale * logit + a.ce_scale * ce);
  a.counts[kCountAgreement] = agree;
  a.counts[kCountLogitRows] = logit_rows;
  a.counts[kCountCorrect] = correct;
  a.counts[kCountLabelRows] = label_rows;
}

// One block per row, in units of U. Where `rows` is null row i is row i.
template <class U>
__global__ void copy_rows_kernel(int64_t units, const int64_t* src_rows, const char* src, int64_t src_stride,
                                 const int64_t* dst_rows, char* dst, int64_t dst_stride) {
  const int64_t i = blockIdx.x;
  const int64_t from = src_rows == nullptr ? i : src_rows[i];
  const int64_t to = dst_rows == nullptr ? i : dst_rows[i];
  const U* in = reinterpret_cast<const U*>(src + from * src_stride);
  U* out = reinterpret_cast<U*>(dst + to * dst_stride);
  for (int64_t u = threadIdx.x; u < units; u += blockDim.x) out[u] = in[u];
}

void copy_rows(Context& ctx, int64_t n, int64_t bytes, const int64_t* src_rows, const void* src, int64_t src_stride,
               const int64_t* dst_rows, void* dst, int64_t dst_stride) {
  if (n == 0 || bytes == 0) return;
  const auto launch = [&](auto unit) {
    using U = decltype(unit);
    copy_rows_kernel<U><<<static_cast<unsigned>(n), 128, 0, cuda_stream(ctx)>>>(
        bytes / static_cast<int64_t>(sizeof(U)), src_rows, static_cast<const char*>(src), src_stride, dst_rows,
        static_cast<char*>(dst), dst_stride);
  };
  const auto bits = static_cast<uint64_t>(bytes) | static_cast<uint64_t>(src_stride) |
                    static_cast<uint64_t>(dst_stride) | reinterpret_cast<uintptr_t>(src) |
                    reinterpret_cast<uintptr_t>(dst);
  if (bits % 16 == 0) {
    launch(uint4{});
  } else if (bits % 4 == 0) {
    launch(uint32_t{});
  } else {
    launch(uint16_t{});
  }
  MATVLM_LAUNCH_CHECK();
}

// One thread per column.
template <class T>
__global__ void add_column_sums_kernel(int64_t rows, int64_t cols, const T* x, float* sum) {
  const int64_t v = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (v >= cols) return;
  double total = 0;
  for (int64_t r = 0; r < rows; ++r) total += static_cast<float>(x[r * cols + v]);
  sum[v] += static_cast<float>(total);
}

__global__ void argmax_rows_kernel(int64_t cols, const float* x, int64_t stride, int32_t* index) {
  const Softmax s = row_softmax(x + static_cast<int64_t>(blockIdx.x) * stride, cols, 1.0F);
  if (threadIdx.x == 0) index[blockIdx.x] = s.index;
}

}  // namespace

template <class G>
void head_rows_cuda(Context& ctx, const HeadRows<float, G>& a) {
  if (a.rows == 0 || (!a.portable && head_rows_cluster(ctx, a))) return;
  const auto blocks = static_cast<unsigned>(a.rows);
  const cudaStream_t stream = cuda_stream(ctx);
  switch (a.kind) {
    case LogitKind::none:
      head_rows_kernel<LogitKind::none><<<blocks, kThreads, 0, stream>>>(a);
      break;
    case LogitKind::kl:
      head_rows_kernel<LogitKind::kl><<<blocks, kThreads, 0, stream>>>(a);
      break;
    case LogitKind::reverse_kl:
      head_rows_kernel<LogitKind::reverse_kl><<<blocks, kThreads, 0, stream>>>(a);
      break;
    case LogitKind::jsd:
      head_rows_kernel<LogitKind::jsd><<<blocks, kThreads, 0, stream>>>(a);
      break;
    case LogitKind::argmax_ce:
      head_rows_kernel<LogitKind::argmax_ce><<<blocks, kThreads, 0, stream>>>(a);
      break;
    case LogitKind::logit_l2:
      head_rows_kernel<LogitKind::logit_l2><<<blocks, kThreads, 0, stream>>>(a);
      break;
  }
  MATVLM_LAUNCH_CHECK();
}
template void head_rows_cuda<float>(Context&, const HeadRows<float, float>&);
template void head_rows_cuda<bf16>(Context&, const HeadRows<float, bf16>&);

void head_totals_cuda(Context& ctx, const HeadTotals& a) {
  head_totals_kernel<<<1, kThreads, 0, cuda_stream(ctx)>>>(a);
  MATVLM_LAUNCH_CHECK();
}

void gather_rows_cuda(Context& ctx, int64_t n, int64_t bytes, const int64_t* rows, const void* src, int64_t src_stride,
                      void* dst) {
  copy_rows(ctx, n, bytes, rows, src, src_stride, nullptr, dst, bytes);
}

void scatter_rows_cuda(Context& ctx, int64_t n, int64_t bytes, const int64_t* rows, const void* src, void* dst,
                       int64_t dst_stride) {
  copy_rows(ctx, n, bytes, nullptr, src, bytes, rows, dst, dst_stride);
}

template <class T>
void add_column_sums_cuda(Context& ctx, int64_t rows, int64_t cols, const T* x, float* sum) {
  if (rows == 0 || cols == 0) return;
  constexpr int64_t kBlock = 128;
  const auto blocks = static_cast<unsigned>((cols + kBlock - 1) / kBlock);
  add_column_sums_kernel<<<blocks, kBlock, 0, cuda_stream(ctx)>>>(rows, cols, x, sum);
  MATVLM_LAUNCH_CHECK();
}
template void add_column_sums_cuda<float>(Context&, int64_t, int64_t, const float*, float*);
template void add_column_sums_cuda<bf16>(Context&, int64_t, int64_t, const bf16*, float*);

void argmax_rows_cuda(Context& ctx, int64_t rows, int64_t cols, const float* x, int64_t stride, int32_t* index) {
  if (rows == 0) return;
  argmax_rows_kernel<<<static_cast<unsigned>(rows), kThreads, 0, cuda_stream(ctx)>>>(cols, x, stride, index);
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm
