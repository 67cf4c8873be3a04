// CUDA kernel of the SSD's decode step. Bound by the states, which dwarf everything else: a thread loads its part of a
// state row before anything else happens, keeps it in registers along the tokens and writes it once at the end. Four
// lanes share a row; a block owns some rows of one head of one sequence.
#include <type_traits>

#include "autograd/ops/pack.cuh"
#include "autograd/ops/ssd_step.h"
#include "core/cuda_context.h"

namespace matvlm {
namespace {

constexpr int kLanes = 4;     // of a row
constexpr int kMaxRows = 40;  // of a block: half a head of 80
constexpr int kMaxThreads = kMaxRows * kLanes;
constexpr int kStage = 8;  // tokens in shared memory at a time

__device__ float softplus(float x) { return x > 0.0F ? x + log1pf(expf(-x)) : log1pf(expf(x)); }

// Operands of some tokens of one head, in float32.
template <int kColumns>
struct Stage {
  alignas(16) float b[kStage][kColumns];
  alignas(16) float c[kStage][kColumns];
  float x[kStage][kMaxRows];
  float dt[kStage], decay[kStage];
};

// Where the operands of one head lie.
template <class E>
struct HeadOperands {
  const E *x, *b, *c, *dt;
  float dt_bias, a_log;

  __device__ HeadOperands(const SsdArgs<E, float>& a, unsigned h, int64_t first_row) {
    const SsdShape& s = a.shape;
    const auto column = [&](int64_t groups, int64_t width) {
      return h / (static_cast<unsigned>(s.heads) / static_cast<unsigned>(groups)) * width;
    };
    x = a.x + column(s.x_groups, s.head_dim) + first_row;
    b = a.b + column(s.b_groups, s.state);
    c = a.c + column(s.c_groups, s.state);
    dt = a.dt + h;
    dt_bias = a.dt_bias[h];
    a_log = a.a_log[h];
  }
};

// Tokens t ... t + tokens - 1, `rows` values of x. All loads are under way before the first of them is needed.
template <class E, int kColumns>
__device__ void load_stage(const SsdArgs<E, float>& a, const HeadOperands<E>& head, int64_t t, int tokens, int rows,
                           Stage<kColumns>& stage) {
  constexpr int kWidth = kColumns > kMaxRows ? kColumns : kMaxRows;
  const int thread = static_cast<int>(threadIdx.x);
  const int states = static_cast<int>(a.shape.state);
  const float raw = thread < tokens ? static_cast<float>(head.dt[(t + thread) * a.dt_stride]) + head.dt_bias : 0.0F;
  for (int i = thread; i < tokens * kWidth; i += static_cast<int>(blockDim.x)) {
    const int token = i / kWidth;
    const int k = i % kWidth;
    const float b = k < states ? static_cast<float>(head.b[(t + token) * a.b_stride + k]) : 0.0F;
    const float c = k < states ? static_cast<float>(head.c[(t + token) * a.c_stride + k]) : 0.0F;
    const float x = k < rows ? static_cast<float>(head.x[(t + token) * a.x_stride + k]) : 0.0F;
    if (k < kColumns) stage.b[token][k] = b;
    if (k < kColumns) stage.c[token][k] = c;
    if (k < kMaxRows) stage.x[token][k] = x;
  }
  if (thread < tokens) {
    const float dt = softplus(raw);
    const float exponent = dt * -expf(head.a_log);
    stage.dt[thread] = dt;
    stage.decay[thread] = exponent <= 0.0F ? expf(exponent) : 1.0F;
  }
}

// One thread's part of a state row: K vectors of V columns, vector k at column (k * kLanes + lane) * V.
template <int V, int K>
struct RowPart {
  float value[K][V];
  int columns, lane;
  bool in_range;  // the row exists

  __device__ bool holds(int k) const { return in_range && column(k) < columns; }
  __device__ int column(int k) const { return (k * kLanes + lane) * V; }
  __device__ void load(const float* row) {
#pragma unroll
    for (int k = 0; k < K; ++k) Pack<float, V>::load_if(row != nullptr && holds(k), row + column(k)).unpack(value[k]);
  }
  __device__ void store(float* row) const {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (holds(k)) Pack<float, V>::pack(value[k]).store(row + column(k));
    }
  }
  // value = decay value + input b; returns the row's product with c, the same in its four lanes.
  __device__ float advance(float decay, float input, const float* b, const float* c) {
    float sum = 0.0F;
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        value[k][v] = fmaf(value[k][v], decay, input * b[column(k) + v]);
        sum = fmaf(value[k][v], c[column(k) + v], sum);
      }
    }
    sum += __shfl_xor_sync(0xffffffffU, sum, 1);
    return sum + __shfl_xor_sync(0xffffffffU, sum, 2);
  }
};

// Grid: (row tiles, heads, batch). `rows`: of a block.
template <class E, int V, int K>
__global__ void __launch_bounds__(kMaxThreads) step_kernel(SsdArgs<E, float> a, int rows) {
  constexpr int kColumns = K * V * kLanes;
  __shared__ Stage<kColumns> stage;
  const SsdShape& s = a.shape;
  const int64_t h = blockIdx.y;
  const int64_t b = blockIdx.z;
  const int local_row = static_cast<int>(threadIdx.x) / kLanes;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * rows;
  const int block_rows = static_cast<int>(min(static_cast<int64_t>(rows), s.head_dim - first_row));
  const auto state_row = [&](float* states, int64_t outer) {
    return states + ((outer * s.heads + h) * s.head_dim + first_row + local_row) * s.state;
  };
  const int64_t slot = a.slots != nullptr ? a.slots[b] : b;

  RowPart<V, K> row;
  row.columns = static_cast<int>(s.state);
  row.lane = static_cast<int>(threadIdx.x) % kLanes;
  row.in_range = local_row < block_rows;
  row.load(a.initial != nullptr ? state_row(const_cast<float*>(a.initial), slot) : nullptr);

  const HeadOperands<E> head(a, blockIdx.y, first_row);
  const int64_t end = a.cu[b + 1];
  const float skip = a.d[h];
  for (int64_t t = a.cu[b]; t < end; t += kStage) {
    const int tokens = static_cast<int>(min(static_cast<int64_t>(kStage), end - t));
    __syncthreads();  // the previous stage has been read
    load_stage(a, head, t, tokens, block_rows, stage);
    __syncthreads();
    for (int i = 0; i < tokens; ++i) {
      const float x = stage.x[i][local_row];
      const float product = row.advance(stage.decay[i], x * stage.dt[i], stage.b[i], stage.c[i]);
      if (row.in_range && row.lane == 0) {
        a.y[(t + i) * a.y_stride + h * s.head_dim + first_row + local_row] = E(fmaf(skip, x, product));
      }
      if (a.every != nullptr) row.store(state_row(a.every, t + i));
    }
  }
  // A thread reads and writes the same elements, so final and initial may be one buffer.
  if (a.final_state != nullptr) row.store(state_row(a.final_state, slot));
}

// Calls f with V and the smallest K of the list that holds a row.
template <class F>
void with_row_part(int64_t columns, bool aligned, F&& f) {
  const auto use = [&](auto vector, auto per_lane) { f(vector, per_lane); };
  using Four = std::integral_constant<int, 4>;
  using One = std::integral_constant<int, 1>;
  if (!aligned) {
    if (columns <= 8 * kLanes) return use(One{}, std::integral_constant<int, 8>{});
    return use(One{}, std::integral_constant<int, kSsdMaxCudaWidth / kLanes>{});
  }
  const int64_t vectors = (columns + 4 * kLanes - 1) / (4 * kLanes);
  if (vectors <= 2) return use(Four{}, std::integral_constant<int, 2>{});
  if (vectors <= 4) return use(Four{}, std::integral_constant<int, 4>{});
  if (vectors <= 5) return use(Four{}, std::integral_constant<int, 5>{});
  if (vectors <= 6) return use(Four{}, std::integral_constant<int, 6>{});
  use(Four{}, std::integral_constant<int, 8>{});
}

}  // namespace

template <class E>
void ssd_step_cuda(Context& ctx, const SsdArgs<E, float>& a) {
  const SsdShape& s = a.shape;
  if (a.batch == 0) return;
  check(s.head_dim <= kSsdMaxCudaWidth && s.state <= kSsdMaxCudaWidth, "[ssd] found head width ", s.head_dim,
        " and state size ", s.state, ", expected at most ", kSsdMaxCudaWidth);
  const bool aligned = s.state % 4 == 0 && rows_aligned(a.initial, 0, 4) && rows_aligned(a.final_state, 0, 4) &&
                       rows_aligned(a.every, 0, 4);
  const int64_t tiles = (s.head_dim + kMaxRows - 1) / kMaxRows;
  constexpr int64_t kWarpRows = 32 / kLanes;
  const auto rows = static_cast<int>(((s.head_dim + tiles - 1) / tiles + kWarpRows - 1) / kWarpRows * kWarpRows);
  const dim3 grid(static_cast<unsigned>((s.head_dim + rows - 1) / rows), static_cast<unsigned>(s.heads),
                  static_cast<unsigned>(a.batch));
  with_row_part(s.state, aligned, [&](auto vector, auto per_lane) {
    step_kernel<E, vector(), per_lane()><<<grid, rows * kLanes, 0, cuda_stream(ctx)>>>(a, rows);
    MATVLM_LAUNCH_CHECK();
  });
}

template void ssd_step_cuda(Context&, const SsdArgs<float, float>&);
template void ssd_step_cuda(Context&, const SsdArgs<bf16, float>&);

}  // namespace matvlm
