// Row kernel of head_loss for sm_90 and the recipe that most runs have, KL(teacher || student) alone: what
// head_loss_cluster.cu does, with one exponential a logit; label losses are only counted. A thread keeps exp(x -
// maximum of its block) of both rows and the difference of the logits; both probabilities are then products with
// factors of the row, and the log ratio a difference with its shift.
#include <type_traits>

#include "autograd/ops/head_loss_cluster.cuh"

namespace matvlm {
namespace {

using namespace head_cluster;

constexpr int kPacks = 4;      // of a thread
constexpr int kThreads = 448;  // at most: two blocks of it have 72 registers a thread
constexpr int kWarps = kThreads / 32;
constexpr int64_t kMaxVocab = int64_t{kCluster} * kWidth * kPacks * kThreads;

struct WarpParts {
  int top[2][kWarps];  // ordered_int of the largest logit; the student's first
  float sum[2][kWarps];
  double loss[kWarps];
  int index[2];  // lowest with the block's largest logit
};

#ifdef MATVLM_SM90A

// Integers in the order of the floats, and back.
__device__ int ordered_int(float x) {
  const int bits = __float_as_int(x);
  return bits >= 0 ? bits : bits ^ 0x7fffffff;
}
__device__ float ordered_float(int x) { return __int_as_float(x >= 0 ? x : x ^ 0x7fffffff); }

// exp(d * inverse) by the hardware's 2^x, with a relative error of 1e-7 |d| and 2e-7 of its own. kExact: the argument's
// rounding error is put back, so that the first part goes.
template <bool kExact>
struct Exponential {
  float scale, rest;  // inverse * log2(e) in two parts
  __device__ explicit Exponential(double temperature) {
    const double exact = 1.4426950408889634 / temperature;
    scale = static_cast<float>(exact);
    rest = static_cast<float>(exact - static_cast<double>(scale));
  }
  __device__ float operator()(float d) const {
    const float z = __fmul_rn(d, scale);
    float e;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(z));
    if constexpr (!kExact) return e;
    const float missing = __fmaf_rn(d, rest, __fmaf_rn(d, scale, -z));
    return z < -126.0F ? 0.0F : __fmaf_rn(e, missing * 0.69314718F, e);
  }
};

// Largest logit of the block, from its warps'.
__device__ float block_top(const int* tops) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  return ordered_float(__reduce_max_sync(kAll, tops[lane < warps ? lane : 0]));
}

__device__ float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kAll, x, offset);
  return x;
}
__device__ double warp_sum(double x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kAll, x, offset);
  return x;
}

#endif  // MATVLM_SM90A

// For the order of exchanges see head_rows_cluster_kernel: softmaxes between the cluster's first barrier and the
// second, losses, to the first block alone, between the second and the third.
template <class G>
__global__ void __launch_bounds__(kThreads, 2) head_rows_kl_kernel(HeadRows<float, G> a) {
#ifdef MATVLM_SM90A
  __shared__ alignas(16) Exchange exchange;
  __shared__ WarpParts parts;
  const auto thread = static_cast<int>(threadIdx.x);
  const auto threads = static_cast<int>(blockDim.x);
  const int warp = thread / 32, lane = thread % 32, warps = threads / 32;
  const auto rank = static_cast<int>(cluster_rank());
  const int64_t r = blockIdx.x / kCluster;
  const Range range(a.vocab, rank);
  float s[kPacks][kWidth], t[kPacks][kWidth];
  const auto valid = [&](int i) { return range.begin + thread + i * threads < range.end; };
  const auto place = [&](int i) {
    return r * a.vocab + static_cast<int64_t>(range.begin + thread + i * threads) * kWidth;
  };
#pragma unroll
  for (int i = 0; i < kPacks; ++i) Pack<float, kWidth>::load_if(valid(i), a.student + place(i)).unpack(s[i]);
#pragma unroll
  for (int i = 0; i < kPacks; ++i) Pack<float, kWidth>::load_if(valid(i), a.teacher + place(i)).unpack(t[i]);
  const double weight = a.logit_coefficient[r];
  const bool logit = weight != 0;
  const int32_t target = a.ce_coefficient == nullptr || a.ce_coefficient[r] == 0 ? -1 : a.target[r];
  cluster_arrive();  // this block has started: the others wait for that where they first write to its memory
  if (thread < 2) parts.index[thread] = INT32_MAX;

  float own[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    if (!valid(i)) continue;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      own[0] = fmaxf(own[0], s[i][j]);  // not NaN, which reaches the sums
      own[1] = fmaxf(own[1], t[i][j]);
    }
  }
#pragma unroll
  for (int which = 0; which < 2; ++which) {
    const int top = __reduce_max_sync(kAll, ordered_int(own[which]));
    if (lane == 0) parts.top[which][warp] = top;
  }
  __syncthreads();
  const float top[2] = {block_top(parts.top[0]), block_top(parts.top[1])};
#pragma unroll
  for (int which = 0; which < 2; ++which) {
    if (own[which] != top[which]) continue;  // nearly all threads
#pragma unroll
    for (int i = kPacks - 1; i >= 0; --i) {
#pragma unroll
      for (int j = kWidth - 1; j >= 0; --j) {
        const float x = which == 0 ? s[i][j] : t[i][j];
        if (valid(i) && x == top[which]) {
          atomicMin(&parts.index[which], (range.begin + thread + i * threads) * kWidth + j);
        }
      }
    }
  }

  // From here on s holds the students' exponentials, t the teacher's; -infinity (a block without elements) gives 0, but
  // NaN stays.
  const Exponential<std::is_same_v<G, float>> exponential(a.temperature);  // a gradient of 8 bits needs no more
  const float from_s = top[0] == -INFINITY ? 0.0F : top[0];
  const float from_t = top[1] == -INFINITY ? 0.0F : top[1];
  float difference[kPacks][kWidth];
  float sum_s = 0, sum_t = 0;
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const bool is_valid = valid(i);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      difference[i][j] = s[i][j] - t[i][j];
      s[i][j] = exponential(s[i][j] - from_s);
      t[i][j] = exponential(t[i][j] - from_t);
      if (is_valid) {
        sum_s += s[i][j];
        sum_t += t[i][j];
      }
    }
  }
  sum_s = warp_sum(sum_s);
  sum_t = warp_sum(sum_t);
  if (lane == 0) {
    parts.sum[0][warp] = sum_s;
    parts.sum[1][warp] = sum_t;
  }
  __syncthreads();
  cluster_wait();
  if (warp == 0) {
    const float block_s = warp_sum(lane < warps ? parts.sum[0][lane] : 0.0F);
    const float block_t = warp_sum(lane < warps ? parts.sum[1][lane] : 0.0F);
    if (lane < kCluster) {
      const auto to = static_cast<unsigned>(lane);
      store_remote(remote_address(&exchange.student[rank], to), Softmax{top[0], parts.index[0], 0.0F, block_s});
      store_remote(remote_address(&exchange.teacher[rank], to), Softmax{top[1], parts.index[1], 0.0F, block_t});
    }
  }
  // Read before any block writes its part of the gradient, which may lie there.
  const float target_logit = target < 0 ? 0.0F : a.student[r * a.vocab + target];
  cluster_sync();
  const auto inverse = static_cast<float>(1.0 / a.temperature);
  const Softmax soft_s = join(exchange.student, inverse);
  const Softmax soft_t = join(exchange.teacher, inverse);

  // Equal rows have equal factors, no difference and no shift: loss and gradient are exactly 0.
  const float factor_s = rescale(top[0], soft_s.max, inverse) / soft_s.sum_tau;
  const float factor_t = rescale(top[1], soft_t.max, inverse) / soft_t.sum_tau;
  const float between = soft_s.max - soft_t.max;
  const float shift = __fsub_rn(logf(soft_s.sum_tau), logf(soft_t.sum_tau));
  const auto coefficient = static_cast<float>(weight * a.logit_scale * a.temperature);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    if (!valid(i)) continue;
    float g[kWidth] = {};
    if (logit) {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        const float q = __fmul_rn(s[i][j], factor_s);
        const float p = __fmul_rn(t[i][j], factor_t);
        sum += kl_element(p, q, __fsub_rn(__fmul_rn(difference[i][j] - between, inverse), shift));
        g[j] = coefficient * __fsub_rn(q, p);
      }
    }
    if (a.grad != nullptr) Pack<G, kWidth>::pack(g).store(a.grad + place(i));
  }
  const double warp_loss = warp_sum(static_cast<double>(sum));
  if (lane == 0) parts.loss[warp] = warp_loss;
  __syncthreads();
  if (warp == 0) {
    const double loss = warp_sum(lane < warps ? parts.loss[lane] : 0.0);
    if (lane == 0) store_remote(remote_address(&exchange.loss[rank], 0), loss);
  }
  cluster_arrive();
  if (rank != 0) return;
  cluster_wait();
  if (thread != 0) return;
  a.logit_loss[r] = logit ? a.temperature * a.temperature * in_order(exchange.loss) : 0.0;
  a.ce_loss[r] = target < 0 ? 0.0 : static_cast<double>(logf(soft_s.sum_tau)) - (target_logit - soft_s.max);
  a.agree[r] = logit && soft_s.index == soft_t.index ? 1 : 0;
  a.correct[r] = target >= 0 && soft_s.index == target ? 1 : 0;
#endif
}

}  // namespace

template <class G>
bool head_rows_kl(Context& ctx, const HeadRows<float, G>& a) {
  // Label losses take the student's sum, which is that of temperature 1 then.
  const bool only_counts = a.ce_coefficient == nullptr || (a.ce_scale == 0 && a.temperature == 1);
  if (!only_counts || a.vocab > kMaxVocab) return false;
  launch_rows(ctx, head_rows_kl_kernel<G>, cluster_threads<kPacks>(a.vocab), a);
  return true;
}
template bool head_rows_kl<float>(Context&, const HeadRows<float, float>&);
template bool head_rows_kl<bf16>(Context&, const HeadRows<float, bf16>&);

}  // namespace matvlm
