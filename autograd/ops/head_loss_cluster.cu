// Row kernel of head_loss for sm_90, every kind of loss. All sums are in an order that depends on V alone: the same
// bits every time, and equal rows give equal results.
#include "autograd/ops/head_loss_cluster.cuh"

namespace matvlm {
namespace {

constexpr int kMaxWarps = 20;

using namespace head_cluster;

#ifdef MATVLM_SM90A

// A row's logits as this thread holds them: kPacks packs, `threads` apart, in the block's range [begin, end) of packs.
template <int kPacks>
struct Held {
  float x[kPacks][kWidth];

  __device__ void load(const float* row, int begin, int end) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int p = begin + static_cast<int>(threadIdx.x) + i * static_cast<int>(blockDim.x);
      Pack<float, kWidth>::load_if(p < end, row + static_cast<int64_t>(p) * kWidth).unpack(x[i]);
    }
  }
  __device__ void top(int begin, int end, float& max, int32_t& index) const {
    max = -INFINITY;
    index = 0;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int p = begin + static_cast<int>(threadIdx.x) + i * static_cast<int>(blockDim.x);
      if (p < end) {
#pragma unroll
        for (int j = 0; j < kWidth; ++j) {
          if (x[i][j] > max) {  // not for NaN, which reaches the sums
            max = x[i][j];
            index = p * kWidth + j;
          }
        }
      }
    }
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      keep_top(max, index, __shfl_xor_sync(kAll, max, offset), __shfl_xor_sync(kAll, index, offset));
    }
  }
  // Sum of exp((x - max) * inverse) over the warp.
  __device__ float sum_exp(int begin, int end, float max, float inverse) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int p = begin + static_cast<int>(threadIdx.x) + i * static_cast<int>(blockDim.x);
      if (p < end) {
#pragma unroll
        for (int j = 0; j < kWidth; ++j) sum += expf((x[i][j] - max) * inverse);
      }
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAll, sum, offset);
    return sum;
  }
};

// What a block keeps of its warps, one entry each; students first.
struct WarpParts {
  float max[2][kMaxWarps];
  int32_t index[2][kMaxWarps];
  float sum[2][kMaxWarps];
  float sum_tau[2][kMaxWarps];
  double loss[kMaxWarps];
  double mean[kMaxWarps];
};

// Softmax of row `which` (0 student, 1 teacher) over the block; every thread may call it once all warps have written.
__device__ Softmax block_softmax(const WarpParts& parts, int which, int warps, float max) {
  Softmax out = {-INFINITY, 0, 0.0F, 0.0F};
  for (int w = 0; w < warps; ++w) {
    keep_top(out.max, out.index, parts.max[which][w], parts.index[which][w]);
    out.sum += parts.sum[which][w];
    out.sum_tau += parts.sum_tau[which][w];
  }
  out.max = max;
  return out;
}

__device__ float block_max(const WarpParts& parts, int which, int warps) {
  float max = parts.max[which][0];
  for (int w = 1; w < warps; ++w) max = fmaxf(max, parts.max[which][w]);
  return max;
}

// Adds the warp's and the block's sums up and sends them to the first `blocks` blocks of the cluster. The cluster's
// barrier follows.
__device__ void send_sums(WarpParts& parts, Exchange& exchange, double loss, double mean, unsigned blocks) {
  const int warps = static_cast<int>(blockDim.x) / 32;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    loss += __shfl_xor_sync(kAll, loss, offset);
    mean += __shfl_xor_sync(kAll, mean, offset);
  }
  if (threadIdx.x % 32 == 0) {
    parts.loss[threadIdx.x / 32] = loss;
    parts.mean[threadIdx.x / 32] = mean;
  }
  __syncthreads();
  if (threadIdx.x >= blocks) return;
  double loss_sum = 0;
  double mean_sum = 0;
  for (int w = 0; w < warps; ++w) {
    loss_sum += parts.loss[w];
    mean_sum += parts.mean[w];
  }
  const unsigned rank = cluster_rank();
  store_remote(remote_address(&exchange.loss[rank], threadIdx.x), loss_sum);
  store_remote(remote_address(&exchange.mean[rank], threadIdx.x), mean_sum);
}

// The gradient's parts that are the same for all elements of a row.
struct RowGradient {
  float coefficient = 0;  // of grad_element
  float mean = 0;
  float softmax = 0;  // of the cross entropies' softmax at temperature 1
  float max = 0, log_sum = 0;
  int32_t target = -1, top = -1;
  float ce = 0, argmax_ce = 0;  // taken from those two elements

  // Adds the cross entropies' part to the elements from `first` on.
  __device__ void add_cross_entropy(const float (&s)[kWidth], int32_t first, float (&g)[kWidth]) const {
    if (softmax != 0) {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) g[j] += softmax * expf((s[j] - max) - log_sum);
    }
    const auto subtract = [&](int32_t index, float value) {
      if (index < first || index >= first + kWidth) return;
#pragma unroll
      for (int j = 0; j < kWidth; ++j) g[j] -= index == first + j ? value : 0.0F;
    };
    subtract(target, ce);
    subtract(top, argmax_ce);
  }
};

#endif  // MATVLM_SM90A

// Loss and gradient of kl come from one walk over the registers: its gradient does not need the row's loss.
//
// Why the exchange is right. Blocks store to others' `exchange` and read only their own; barriers are the cluster's.
// Every thread arrives at the first barrier at once and waits for it before its first remote store, and none returns in
// between: a block has started when it is written to. Each place of `exchange` is written once, the softmaxes between
// the first barrier and the second, `loss` and `mean` between the second and the third, and read after the barrier that
// ends this: nothing is read too early, nor written over while it may still be read. No block ends while it may be
// written to: all wait for the second barrier, and for the third where it follows; with kl only block 0 is written to
// before the third, so the others arrive, which releases their stores, and exit, and block 0 waits (a barrier does not
// wait for threads that have exited). Barriers under `logit` are reached by all blocks or by none: a cluster is one
// row, with one coefficient. `parts` is the block's own, each place written once, with __syncthreads() before it is
// read. The gradient may lie on the student's row: a block writes its own range, of which the others read the target's
// and the top's logit alone, before a barrier that no gradient precedes.
template <LogitKind kKind, class G, int kPacks, int kMaxThreads>
__global__ void __launch_bounds__(kMaxThreads, kMaxThreads <= 512 ? 2 : 1)
    head_rows_cluster_kernel(HeadRows<float, G> a) {
#ifdef MATVLM_SM90A
  constexpr bool kComparesAll = kIsDistribution<kKind> || kKind == LogitKind::logit_l2;
  __shared__ alignas(16) Exchange exchange;
  __shared__ WarpParts parts;
  cluster_arrive();  // this block has started: the others wait for that where they first write to its memory
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const auto rank = static_cast<int>(cluster_rank());
  const int64_t r = blockIdx.x / kCluster;
  const auto [begin, end] = Range(a.vocab, rank);
  const float* s_row = a.student + r * a.vocab;
  // The logits are on their way before anything else is asked for; rows without a teacher's part are rare.
  Held<kPacks> s, t;
  s.load(s_row, begin, end);
  if constexpr (kKind != LogitKind::none) t.load(a.teacher + r * a.vocab, begin, end);
  const double logit_weight = kKind == LogitKind::none ? 0.0 : a.logit_coefficient[r];
  const double ce_weight = a.ce_coefficient == nullptr ? 0.0 : a.ce_coefficient[r];
  const bool logit = logit_weight != 0;
  const auto inverse = static_cast<float>(1.0 / a.temperature);
  // Which sums the row needs: at the temperature for the distributions, at 1 for the cross entropies.
  const bool at_tau = kIsDistribution<kKind> && logit;
  const bool at_one = ce_weight != 0 || (kKind == LogitKind::argmax_ce && logit);
  const int32_t target = ce_weight == 0 ? -1 : a.target[r];

  const auto write_top = [&](const Held<kPacks>& x, int which) {
    float max;
    int32_t index;
    x.top(begin, end, max, index);
    if (threadIdx.x % 32 == 0) {
      parts.max[which][warp] = max;
      parts.index[which][warp] = index;
    }
  };
  write_top(s, 0);
  if (kKind != LogitKind::none && logit) write_top(t, 1);
  __syncthreads();
  // Against the block's maximum; -infinity (a block without elements) gives 0, but NaN stays.
  const auto write_sums = [&](const Held<kPacks>& x, int which) {
    const float max = block_max(parts, which, warps);
    const float from = max == -INFINITY ? 0.0F : max;
    float sum = 0;
    float sum_tau = 0;
    if (at_tau) sum_tau = x.sum_exp(begin, end, from, inverse);
    if (at_one && which == 0) sum = at_tau && inverse == 1.0F ? sum_tau : x.sum_exp(begin, end, from, 1.0F);
    if (threadIdx.x % 32 == 0) {
      parts.sum[which][warp] = sum;
      parts.sum_tau[which][warp] = sum_tau;
    }
    return max;
  };
  const float max_s = write_sums(s, 0);
  float max_t = max_s;
  if (kKind != LogitKind::none && logit) max_t = write_sums(t, 1);
  __syncthreads();
  cluster_wait();
  if (threadIdx.x < kCluster) {
    store_remote(remote_address(&exchange.student[rank], threadIdx.x), block_softmax(parts, 0, warps, max_s));
    if (kKind != LogitKind::none && logit) {
      store_remote(remote_address(&exchange.teacher[rank], threadIdx.x), block_softmax(parts, 1, warps, max_t));
    }
  }
  // Logits that the losses name are read before any block writes its part of the gradient, which may lie there.
  const float target_logit = target < 0 ? 0.0F : s_row[target];
  cluster_sync();
  const Softmax soft_s = join(exchange.student, inverse);
  const Softmax soft_t = kKind != LogitKind::none && logit ? join(exchange.teacher, inverse) : soft_s;

  const float log_sum = logf(soft_s.sum);
  double logit_loss = 0;
  RowGradient row;
  row.target = target;
  row.top = kKind == LogitKind::argmax_ce && logit ? soft_t.index : -1;
  row.max = soft_s.max;
  row.log_sum = log_sum;
  row.ce = static_cast<float>(ce_weight * a.ce_scale);
  row.argmax_ce = row.top < 0 ? 0.0F : static_cast<float>(logit_weight * a.logit_scale);
  row.softmax = static_cast<float>(ce_weight * a.ce_scale + (row.top < 0 ? 0.0 : logit_weight * a.logit_scale));
  if constexpr (kKind == LogitKind::argmax_ce) {
    // A NaN of the teacher must not go unnoticed: its maximum minus itself is 0 or NaN.
    if (logit) {
      logit_loss = static_cast<double>(log_sum) - (s_row[row.top] - soft_s.max) + (soft_t.max - soft_t.max);
      cluster_sync();
    }
  }
  const Pair pair(soft_s, soft_t, inverse);
  const bool compares = kComparesAll && logit;
  const double weight = logit_weight * a.logit_scale;
  if constexpr (kComparesAll && kKind != LogitKind::kl) {
    if (logit) {
      float sum = 0;
      float mean = 0;
#pragma unroll
      for (int i = 0; i < kPacks; ++i) {
        if (begin + static_cast<int>(threadIdx.x) + i * static_cast<int>(blockDim.x) < end) {
#pragma unroll
          for (int j = 0; j < kWidth; ++j) {
            sum += loss_element<kKind>(pair, s.x[i][j], t.x[i][j]);
            if constexpr (kKind == LogitKind::jsd) {
              mean += pair.q(s.x[i][j]) * log_over_mean(pair.d(s.x[i][j], t.x[i][j]));
            }
          }
        }
      }
      send_sums(parts, exchange, sum, mean, kCluster);
      cluster_sync();
      const double total = in_order(exchange.loss);
      if constexpr (kKind == LogitKind::logit_l2) {
        const double norm = sqrt(total);
        logit_loss = a.segment_norm ? total : norm;
        const double divisor = a.segment_norm ? 1.0 : norm;
        row.coefficient = !a.segment_norm && total == 0 ? 0.0F : static_cast<float>(weight / divisor);
      } else {
        logit_loss = a.temperature * a.temperature * total;
        row.coefficient = static_cast<float>(weight * a.temperature);
        row.mean = static_cast<float>(kKind == LogitKind::jsd ? in_order(exchange.mean) : total);
      }
    }
  } else {
    row.coefficient = static_cast<float>(weight * a.temperature);
  }

  float sum = 0;  // of kl
  G* grad = a.grad == nullptr ? nullptr : a.grad + r * a.vocab;
  if (grad != nullptr || (kKind == LogitKind::kl && logit)) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int p = begin + static_cast<int>(threadIdx.x) + i * static_cast<int>(blockDim.x);
      if (p < end) {
        float g[kWidth] = {};
        if (compares) {
#pragma unroll
          for (int j = 0; j < kWidth; ++j) {
            if constexpr (kKind == LogitKind::kl) sum += loss_element<kKind>(pair, s.x[i][j], t.x[i][j]);
            if constexpr (kComparesAll) {
              g[j] = grad_element<kKind>(pair, s.x[i][j], t.x[i][j], row.coefficient, row.mean);
            }
          }
        }
        if (grad != nullptr) {
          row.add_cross_entropy(s.x[i], p * kWidth, g);
          Pack<G, kWidth>::pack(g).store(grad + static_cast<int64_t>(p) * kWidth);
        }
      }
    }
  }
  if constexpr (kKind == LogitKind::kl) {
    if (logit) {
      // Only the first block's thread wants them: the others leave, having arrived.
      send_sums(parts, exchange, sum, 0.0, 1);
      cluster_arrive();
      if (rank != 0) return;
      cluster_wait();
      logit_loss = a.temperature * a.temperature * in_order(exchange.loss);
    }
  }
  if (rank != 0 || threadIdx.x != 0) return;
  a.logit_loss[r] = logit_loss;
  a.ce_loss[r] = target < 0 ? 0.0 : static_cast<double>(log_sum) - (target_logit - soft_s.max);
  a.agree[r] = logit && soft_s.index == soft_t.index ? 1 : 0;
  a.correct[r] = target >= 0 && soft_s.index == target ? 1 : 0;
#endif
}

template <LogitKind kKind, class G, int kPacks, int kMaxThreads>
void launch(Context& ctx, const HeadRows<float, G>& a) {
  launch_rows(ctx, head_rows_cluster_kernel<kKind, G, kPacks, kMaxThreads>, cluster_threads<kPacks>(a.vocab), a);
}

// Vocabularies of up to 65,536 and 163,840 tokens.
constexpr int kSmallThreads = 512, kLargeThreads = 32 * kMaxWarps;
constexpr int64_t kSmallVocab = int64_t{kCluster} * kWidth * 4 * kSmallThreads;
constexpr int64_t kLargeVocab = int64_t{kCluster} * kWidth * 8 * kLargeThreads;

template <LogitKind kKind, class G>
void launch_for_vocab(Context& ctx, const HeadRows<float, G>& a) {
  if (a.vocab <= kSmallVocab) return launch<kKind, G, 4, kSmallThreads>(ctx, a);
  launch<kKind, G, 8, kLargeThreads>(ctx, a);
}

}  // namespace

template <class G>
bool head_rows_cluster(Context& ctx, const HeadRows<float, G>& a) {
  if (ctx.cuda()->compute_capability() != 90 || a.vocab > kLargeVocab || a.rows * kCluster > INT32_MAX) return false;
  if (!rows_aligned(a.student, a.vocab, kWidth) || !rows_aligned(a.teacher, a.vocab, kWidth) ||
      !rows_aligned(a.grad, a.vocab, kWidth)) {
    return false;
  }
  switch (a.kind) {
    case LogitKind::none:
      launch_for_vocab<LogitKind::none>(ctx, a);
      break;
    case LogitKind::kl:
      if (!head_rows_kl(ctx, a)) launch_for_vocab<LogitKind::kl>(ctx, a);
      break;
    case LogitKind::reverse_kl:
      launch_for_vocab<LogitKind::reverse_kl>(ctx, a);
      break;
    case LogitKind::jsd:
      launch_for_vocab<LogitKind::jsd>(ctx, a);
      break;
    case LogitKind::argmax_ce:
      launch_for_vocab<LogitKind::argmax_ce>(ctx, a);
      break;
    case LogitKind::logit_l2:
      launch_for_vocab<LogitKind::logit_l2>(ctx, a);
      break;
  }
  return true;
}
template bool head_rows_cluster<float>(Context&, const HeadRows<float, float>&);
template bool head_rows_cluster<bf16>(Context&, const HeadRows<float, bf16>&);

}  // namespace matvlm
