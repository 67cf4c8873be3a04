// CUDA kernels of the SSD recurrence: float32 states in registers, one scan over the tokens per (sequence, head, rows).
// Gradients: scans for B and C, one sweep backward in time for x, dt and the weights that replays states from
// checkpoints; per-head results go to float32 scratch and are summed in a fixed order.
#include <algorithm>
#include <type_traits>

#include "autograd/ops/ssd_scan.cuh"
#include "autograd/ops/ssd_scan.h"
#include "core/cuda_context.h"

namespace matvlm {
namespace {

using namespace ssd_cuda;

constexpr int kFlatThreads = 256;  // of elementwise kernels
constexpr int kSums = 3;           // per token and head: <x, dstate B>, <dstate, state before>, <x, dy>

__device__ float softplus(float x) { return x > 0.0F ? x + log1pf(expf(-x)) : log1pf(expf(x)); }
// exp of an exponent dt A; 1 where rounding or an infinite A leaves no such product. Near 1 rounded once: a state that
// forgets nothing multiplies tens of thousands of these, and a device exp may err to one side there.
__device__ float decay_of(float exponent) {
  if (!(exponent <= 0.0F)) return 1.0F;
  return exponent > -0.5F ? 1.0F + expm1f(exponent) : expf(exponent);
}
__device__ float sigmoid(float x) { return 1.0F / (1.0F + expf(-x)); }

__device__ int64_t flat_index() { return static_cast<int64_t>(blockIdx.x) * kFlatThreads + threadIdx.x; }
unsigned flat_blocks(int64_t n) { return static_cast<unsigned>((n + kFlatThreads - 1) / kFlatThreads); }

// dt after bias and softplus, and exp(dt A), both [T, H].
template <class E>
__global__ void prepare_kernel(SsdArgs<E, float> a, float* dt, float* decay) {
  const int64_t index = flat_index();
  if (index >= a.tokens * a.shape.heads) return;
  const int64_t t = index / a.shape.heads;
  const int64_t h = index % a.shape.heads;
  const float step = softplus(static_cast<float>(a.dt[t * a.dt_stride + h]) + a.dt_bias[h]);
  dt[index] = step;
  decay[index] = decay_of(step * -expf(a.a_log[h]));
}

// What the sweep of x, dt and the weights needs besides the op's arguments.
struct SweepScratch {
  const float* dt;           // [T, H]
  const float* decay;        // [T, H]
  const float* checkpoints;  // [T / kStage + B, H, P, N]
  float* replay;             // [blocks, kStage, columns per lane, kThreads]
  float* dx;                 // [T, H, P]
  float* sums;               // [T, H, row tiles, kSums]
};

// Shared memory of the sweep.
template <int kColumns>
struct SweepStage {
  float b[kStage * kColumns * kLanes];
  float c[kStage * kColumns * kLanes];
  float x[kStage * kRows];
  float dy[kStage * kRows];
  float dt[kStage], decay[kStage + 1];  // decay[i + 1] is the factor between tokens i and i + 1; 1 after the last one
  float sums[kStage][kThreads / 32][kSums];
};

template <class E, int kColumns>
__device__ void load_sweep_stage(const SsdArgs<E, float>& a, const SweepScratch& scratch, int64_t h, int64_t first,
                                 int count, int64_t end, int64_t first_row, SweepStage<kColumns>& stage) {
  const SsdShape& s = a.shape;
  load_stage<false>(Operand<E>{a.b, a.b_stride, s.b_groups, s.state}, h, s.heads, first, count, 0, kColumns * kLanes,
                    stage.b);
  load_stage<false>(Operand<E>{a.c, a.c_stride, s.c_groups, s.state}, h, s.heads, first, count, 0, kColumns * kLanes,
                    stage.c);
  load_stage<false>(Operand<E>{a.x, a.x_stride, s.x_groups, s.head_dim}, h, s.heads, first, count, first_row, kRows,
                    stage.x);
  load_stage<false>(Operand<E>{a.dy, a.dy_stride, s.heads, s.head_dim}, h, s.heads, first, count, first_row, kRows,
                    stage.dy);
  const int i = static_cast<int>(threadIdx.x);
  if (i < count) stage.dt[i] = scratch.dt[(first + i) * s.heads + h];
  if (i <= count) stage.decay[i] = first + i < end ? scratch.decay[(first + i) * s.heads + h] : 1.0F;
}

// One head of one sequence and one tile of rows, backward in time.
template <class E, int kColumns>
__device__ void sweep_rows(const SsdArgs<E, float>& a, const SweepScratch& scratch, int64_t b, int64_t h, int64_t tile,
                           int64_t tiles, SweepStage<kColumns>& stage) {
  constexpr int kPadded = kColumns * kLanes;
  const SsdShape& s = a.shape;
  const int64_t begin = a.cu[b];
  const int64_t end = a.cu[b + 1];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kLanes;
  const int local_row = thread / kLanes;
  const int64_t row = tile * kRows + local_row;
  const bool in_range = row < s.head_dim;
  const float skip = a.d[h];
  float* replay = scratch.replay + static_cast<int64_t>(blockIdx.x) * kStage * kColumns * kThreads + thread;
  const int64_t carried = ((b * s.heads + h) * s.head_dim + row) * s.state + lane;  // in dfinal_state and dinitial
  float dstate[kColumns];
#pragma unroll
  for (int j = 0; j < kColumns; ++j) {
    const bool known = a.dfinal_state != nullptr && in_range && lane + j * kLanes < s.state;
    dstate[j] = known ? a.dfinal_state[carried + j * kLanes] : 0.0F;
  }
  for (int64_t chunk = (end - begin + kStage - 1) / kStage - 1; chunk >= 0; --chunk) {
    const int64_t first = begin + chunk * kStage;
    const int count = static_cast<int>(min(static_cast<int64_t>(kStage), end - first));
    __syncthreads();  // the previous stage and its sums have been read
    load_sweep_stage<E, kColumns>(a, scratch, h, first, count, end, tile * kRows, stage);
    float state[kColumns];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const int64_t n = lane + j * kLanes;
      const int64_t outer = checkpoint_index(begin, b, chunk) * s.heads + h;
      state[j] = in_range && n < s.state ? scratch.checkpoints[(outer * s.head_dim + row) * s.state + n] : 0.0F;
    }
    __syncthreads();
    // States before each token; a thread reads back only what it wrote.
    for (int i = 0; i < count; ++i) {
      const float input = stage.x[i * kRows + local_row] * stage.dt[i];
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        replay[(i * kColumns + j) * kThreads] = state[j];
        state[j] = state[j] * stage.decay[i] + input * stage.b[i * kPadded + lane + j * kLanes];
      }
    }
    for (int i = count - 1; i >= 0; --i) {
      const float carry = stage.decay[i + 1];
      const float dy = stage.dy[i * kRows + local_row];
      const float x = stage.x[i * kRows + local_row];
      float along_b = 0.0F;
      float overlap = 0.0F;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const int k = i * kPadded + lane + j * kLanes;
        dstate[j] = dstate[j] * carry + dy * stage.c[k];
        along_b += dstate[j] * stage.b[k];
        overlap += dstate[j] * replay[(i * kColumns + j) * kThreads];
      }
      along_b = row_sum(along_b);
      overlap = row_sum(overlap);
      if (lane == 0 && in_range && scratch.dx != nullptr) {
        scratch.dx[((first + i) * s.heads + h) * s.head_dim + row] = stage.dt[i] * along_b + skip * dy;
      }
      float sums[kSums] = {x * along_b, overlap, x * dy};
#pragma unroll
      for (int m = 0; m < kSums; ++m) {  // over the four rows of the warp
        sums[m] += __shfl_xor_sync(0xffffffffU, sums[m], 8);
        sums[m] += __shfl_xor_sync(0xffffffffU, sums[m], 16);
        if (thread % 32 == 0) stage.sums[i][thread / 32][m] = sums[m];
      }
    }
    __syncthreads();
    if (thread < count * kSums) {
      const int i = thread / kSums;
      const int m = thread % kSums;
      float sum = 0.0F;
      for (int warp = 0; warp < kThreads / 32; ++warp) sum += stage.sums[i][warp][m];
      scratch.sums[(((first + i) * s.heads + h) * tiles + tile) * kSums + m] = sum;
    }
  }
  if (a.dinitial == nullptr || !in_range) return;
  const float carry = begin < end ? scratch.decay[begin * s.heads + h] : 1.0F;
#pragma unroll
  for (int j = 0; j < kColumns; ++j) {
    if (lane + j * kLanes < s.state) a.dinitial[carried + j * kLanes] = dstate[j] * carry;
  }
}

// Blocks walk over the work items, so that the replay buffer stays small (and in the cache). An item's result does not
// depend on the block that takes it.
template <class E, int kColumns>
__global__ void __launch_bounds__(kThreads) sweep_kernel(SsdArgs<E, float> a, SweepScratch scratch, int64_t tiles) {
  __shared__ SweepStage<kColumns> stage;
  const int64_t items = a.batch * a.shape.heads * tiles;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t head = item / tiles;
    sweep_rows<E, kColumns>(a, scratch, head / a.shape.heads, head % a.shape.heads, item % tiles, tiles, stage);
  }
}

// Gradients of dt, and every token's share of the weight gradients into shares [3, T, H] (A_log, D, dt_bias).
template <class E>
__global__ void dt_gradient_kernel(SsdArgs<E, float> a, SweepScratch scratch, int64_t tiles, float* shares) {
  const int64_t index = flat_index();
  const int64_t count = a.tokens * a.shape.heads;
  if (index >= count) return;
  const int64_t t = index / a.shape.heads;
  const int64_t h = index % a.shape.heads;
  float sums[kSums] = {};
  for (int64_t tile = 0; tile < tiles; ++tile) {
    for (int m = 0; m < kSums; ++m) sums[m] += scratch.sums[(index * tiles + tile) * kSums + m];
  }
  const float rate = -expf(a.a_log[h]);
  const float dexponent = scratch.decay[index] * sums[1];
  const float raw = static_cast<float>(a.dt[t * a.dt_stride + h]) + a.dt_bias[h];
  const float ddt = (sums[0] + rate * dexponent) * sigmoid(raw);
  if (a.ddt != nullptr) {
    E* out = a.ddt + t * a.ddt_stride + h;
    *out = E(a.ddt_accumulate ? static_cast<float>(*out) + ddt : ddt);
  }
  shares[index] = scratch.dt[index] * dexponent * rate;
  shares[count + index] = sums[2];
  shares[2 * count + index] = ddt;
}

// Adds the tokens' shares of one weight of one head: strided sums, then a tree. Grid: (heads, 3).
__global__ void weight_gradient_kernel(const float* shares, int64_t tokens, int64_t heads, float* da_log, float* dd,
                                       float* ddt_bias) {
  __shared__ float part[kFlatThreads];
  float* const outs[3] = {da_log, dd, ddt_bias};
  float* out = outs[blockIdx.y];
  if (out == nullptr) return;
  const float* in = shares + static_cast<int64_t>(blockIdx.y) * tokens * heads + blockIdx.x;
  float sum = 0.0F;
  for (int64_t t = threadIdx.x; t < tokens; t += kFlatThreads) sum += in[t * heads];
  part[threadIdx.x] = sum;
  for (unsigned width = kFlatThreads / 2; width > 0; width /= 2) {
    __syncthreads();
    if (threadIdx.x < width) part[threadIdx.x] += part[threadIdx.x + width];
  }
  if (threadIdx.x == 0) out[blockIdx.x] += part[0];
}

// out [T, groups*width] (+)= sums over the heads of each group of in [T, H, width].
template <class E>
__global__ void sum_heads_kernel(const float* in, int64_t tokens, int64_t heads, int64_t groups, int64_t width, E* out,
                                 int64_t stride, bool accumulate) {
  const int64_t index = flat_index();
  if (index >= tokens * groups * width) return;
  const int64_t t = index / (groups * width);
  const int64_t column = index % (groups * width);
  const int64_t per_group = heads / groups;
  const float* from = in + (t * heads + column / width * per_group) * width + column % width;
  float sum = 0.0F;
  for (int64_t h = 0; h < per_group; ++h) sum += from[h * width];
  E* to = out + t * stride + column;
  *to = E(accumulate ? static_cast<float>(*to) + sum : sum);
}

// Calls f with the columns per lane that K columns need.
template <class F>
void with_columns(int64_t columns, F&& f) {
  const int64_t per_lane = (columns + kLanes - 1) / kLanes;
  if (per_lane <= 4) return f(std::integral_constant<int, 4>{});
  if (per_lane <= 8) return f(std::integral_constant<int, 8>{});
  if (per_lane <= 10) return f(std::integral_constant<int, 10>{});
  check(columns <= kMaxColumns, "[ssd] found ", columns, " columns, expected at most ", kMaxColumns);
  f(std::integral_constant<int, kMaxColumns / kLanes>{});
}

int64_t row_tiles(int64_t rows) { return (rows + kRows - 1) / kRows; }

template <bool kReverse, class E, class Out>
void launch_scan(Context& ctx, const ScanArgs<E, Out>& scan, int64_t batch) {
  if (batch == 0) return;
  const dim3 grid(static_cast<unsigned>(row_tiles(scan.u.width)), static_cast<unsigned>(scan.heads),
                  static_cast<unsigned>(batch));
  with_columns(scan.v.width, [&](auto columns) {
    scan_kernel<E, Out, columns(), kReverse><<<grid, kThreads, 0, cuda_stream(ctx)>>>(scan);
    MATVLM_LAUNCH_CHECK();
  });
}

// dt and decay [2, T, H].
template <class E>
Tensor prepare(Context& ctx, const SsdArgs<E, float>& a) {
  const int64_t count = a.tokens * a.shape.heads;
  Tensor steps = Tensor::empty(ctx, {2, count}, DType::f32);
  if (count == 0) return steps;
  float* dt = steps.data<float>();
  prepare_kernel<E><<<flat_blocks(count), kFlatThreads, 0, cuda_stream(ctx)>>>(a, dt, dt + count);
  MATVLM_LAUNCH_CHECK();
  return steps;
}

// Scan whose state is that of the op, from its initial one: rows P, columns N.
template <class E, class Out>
ScanArgs<E, Out> state_scan(const SsdArgs<E, float>& a, const float* dt, const float* decay) {
  const SsdShape& s = a.shape;
  ScanArgs<E, Out> scan;
  scan.heads = s.heads;
  scan.cu = a.cu;
  scan.u = {a.x, a.x_stride, s.x_groups, s.head_dim};
  scan.v = {a.b, a.b_stride, s.b_groups, s.state};
  scan.w = {a.c, a.c_stride, s.c_groups, s.state};
  scan.decay = decay;
  scan.alpha = dt;
  scan.initial = a.initial;
  scan.slots = a.slots;
  return scan;
}

template <class E>
void reduce_heads(Context& ctx, const SsdArgs<E, float>& a, const Tensor& in, int64_t groups, int64_t width, E* out,
                  int64_t stride, bool accumulate) {
  const int64_t count = a.tokens * groups * width;
  sum_heads_kernel<E><<<flat_blocks(count), kFlatThreads, 0, cuda_stream(ctx)>>>(
      in.data<float>(), a.tokens, a.shape.heads, groups, width, out, stride, accumulate);
  MATVLM_LAUNCH_CHECK();
}

// dB: the state's gradient, transposed, backward in time. Rows N, columns P.
template <class E>
void backward_b(Context& ctx, const SsdArgs<E, float>& a, const float* dt, const float* decay) {
  const SsdShape& s = a.shape;
  const Tensor per_head = Tensor::empty(ctx, {a.tokens, s.heads * s.state}, DType::f32);
  ScanArgs<E, float> scan;
  scan.heads = s.heads;
  scan.cu = a.cu;
  scan.u = {a.c, a.c_stride, s.c_groups, s.state};
  scan.v = {a.dy, a.dy_stride, s.heads, s.head_dim};
  scan.w = {a.x, a.x_stride, s.x_groups, s.head_dim};
  scan.decay = decay;
  scan.beta = dt;
  scan.initial = a.dfinal_state;
  scan.initial_transposed = true;
  scan.out = per_head.data<float>();
  scan.out_stride = s.heads * s.state;
  launch_scan<true>(ctx, scan, a.batch);
  reduce_heads(ctx, a, per_head, s.b_groups, s.state, a.db, a.db_stride, a.db_accumulate);
}

// dC: the state, transposed, forward in time. Rows N, columns P.
template <class E>
void backward_c(Context& ctx, const SsdArgs<E, float>& a, const float* dt, const float* decay) {
  const SsdShape& s = a.shape;
  const Tensor per_head = Tensor::empty(ctx, {a.tokens, s.heads * s.state}, DType::f32);
  ScanArgs<E, float> scan;
  scan.heads = s.heads;
  scan.cu = a.cu;
  scan.u = {a.b, a.b_stride, s.b_groups, s.state};
  scan.v = {a.x, a.x_stride, s.x_groups, s.head_dim};
  scan.w = {a.dy, a.dy_stride, s.heads, s.head_dim};
  scan.decay = decay;
  scan.alpha = dt;
  scan.initial = a.initial;
  scan.initial_transposed = true;
  scan.slots = a.slots;
  scan.out = per_head.data<float>();
  scan.out_stride = s.heads * s.state;
  launch_scan<false>(ctx, scan, a.batch);
  reduce_heads(ctx, a, per_head, s.c_groups, s.state, a.dc, a.dc_stride, a.dc_accumulate);
}

template <class E>
void run_sweep(Context& ctx, const SsdArgs<E, float>& a, SweepScratch& scratch, int64_t tiles) {
  const int64_t items = a.batch * a.shape.heads * tiles;
  if (items == 0) return;
  // Enough blocks to fill the device; more would only widen the replay buffer.
  const int64_t blocks = std::min<int64_t>(items, 8 * ctx.cuda()->multiprocessors());
  with_columns(a.shape.state, [&](auto columns) {
    const Tensor replay = Tensor::empty(ctx, {blocks, kStage, columns() * kThreads}, DType::f32);
    scratch.replay = replay.data<float>();
    sweep_kernel<E, columns()><<<static_cast<unsigned>(blocks), kThreads, 0, cuda_stream(ctx)>>>(a, scratch, tiles);
    MATVLM_LAUNCH_CHECK();
  });
}

// dx, ddt, the weights and the initial states (all of it that there is where no sequence has tokens).
template <class E>
void backward_rest(Context& ctx, const SsdArgs<E, float>& a, const float* dt, const float* decay) {
  const SsdShape& s = a.shape;
  const int64_t tiles = row_tiles(s.head_dim);
  const int64_t count = a.tokens * s.heads;
  const Tensor checkpoints =
      Tensor::empty(ctx, {a.tokens / kStage + a.batch, s.heads, s.head_dim, s.state}, DType::f32);
  auto states = state_scan<E, float>(a, dt, decay);
  states.checkpoints = checkpoints.data<float>();
  launch_scan<false>(ctx, states, a.batch);

  const Tensor dx = Tensor::empty(ctx, {a.dx != nullptr ? count : 0, s.head_dim}, DType::f32);
  const Tensor sums = Tensor::empty(ctx, {count, tiles * kSums}, DType::f32);
  const Tensor shares = Tensor::empty(ctx, {3, count}, DType::f32);
  SweepScratch scratch{
      dt, decay, checkpoints.data<float>(), nullptr, a.dx != nullptr ? dx.data<float>() : nullptr, sums.data<float>()};
  run_sweep(ctx, a, scratch, tiles);
  if (count == 0) return;
  if (a.dx != nullptr) reduce_heads(ctx, a, dx, s.x_groups, s.head_dim, a.dx, a.dx_stride, a.dx_accumulate);
  dt_gradient_kernel<E>
      <<<flat_blocks(count), kFlatThreads, 0, cuda_stream(ctx)>>>(a, scratch, tiles, shares.data<float>());
  MATVLM_LAUNCH_CHECK();
  weight_gradient_kernel<<<dim3(static_cast<unsigned>(s.heads), 3), kFlatThreads, 0, cuda_stream(ctx)>>>(
      shares.data<float>(), a.tokens, s.heads, a.da_log, a.dd, a.ddt_bias);
  MATVLM_LAUNCH_CHECK();
}

}  // namespace

template <class E>
void ssd_scan_forward(Context& ctx, const SsdArgs<E, float>& a) {
  const Tensor steps = prepare(ctx, a);
  const float* dt = steps.data<float>();
  auto scan = state_scan<E, E>(a, dt, dt + a.tokens * a.shape.heads);
  scan.skip = a.d;
  scan.out = a.y;
  scan.out_stride = a.y_stride;
  scan.final_state = a.final_state;
  scan.every = a.every;
  launch_scan<false>(ctx, scan, a.batch);
}

template <class E>
void ssd_scan_backward(Context& ctx, const SsdArgs<E, float>& a) {
  const Tensor steps = prepare(ctx, a);
  const float* dt = steps.data<float>();
  const float* decay = dt + a.tokens * a.shape.heads;
  const bool weights = a.da_log != nullptr || a.dd != nullptr || a.ddt_bias != nullptr;
  if (a.dx != nullptr || a.ddt != nullptr || a.dinitial != nullptr || weights) backward_rest(ctx, a, dt, decay);
  if (a.tokens == 0) return;
  if (a.db != nullptr) backward_b(ctx, a, dt, decay);
  if (a.dc != nullptr) backward_c(ctx, a, dt, decay);
}

template void ssd_scan_forward(Context&, const SsdArgs<float, float>&);
template void ssd_scan_forward(Context&, const SsdArgs<bf16, float>&);
template void ssd_scan_backward(Context&, const SsdArgs<float, float>&);
template void ssd_scan_backward(Context&, const SsdArgs<bf16, float>&);

}  // namespace matvlm
