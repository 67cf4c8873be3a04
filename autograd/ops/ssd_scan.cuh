// The scan that the SSD's forward pass and the gradients of B and C share. Per head and sequence, over a matrix S [R,
// K]:
//   S = decay S + alpha u (outer) v,   out[r] = beta sum_k S[r, k] w[k] + skip u[r]
// token after token, forward or backward in time. Rows of S do not mix, so they are split over blocks; 8 lanes share a
// row and keep its columns in registers.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace matvlm::ssd_cuda {

constexpr int kLanes = 8;  // threads per row
constexpr int kRows = 16;  // rows per block
constexpr int kThreads = kLanes * kRows;
constexpr int kStage = 16;  // tokens in shared memory at a time, and between checkpoints
constexpr int kMaxColumns = 128;

// Vectors of a head: [T, groups*width], head h reads group h / (heads / groups).
template <class E>
struct Operand {
  const E* data;
  int64_t stride, groups, width;
  __device__ const E* at(int64_t t, int64_t h, int64_t heads) const {
    return data + t * stride + h / (heads / groups) * width;
  }
};

template <class E, class Out>
struct ScanArgs {
  int64_t heads = 0;
  const int64_t* cu = nullptr;
  Operand<E> u{}, v{}, w{};      // widths R, K, K
  const float* decay = nullptr;  // [T, H]
  const float* alpha = nullptr;  // [T, H]; null = 1
  const float* beta = nullptr;   // [T, H]; null = 1
  const float* skip = nullptr;   // [H]; null = 0
  Out* out = nullptr;            // [T, H*R]; null = not wanted
  int64_t out_stride = 0;
  const float* initial = nullptr;  // S before the first step, [S, H, R, K] or transposed [S, H, K, R]; null = 0
  bool initial_transposed = false;
  const int64_t* slots = nullptr;  // [B]; null = b
  float* final_state = nullptr;    // [S, H, R, K] or null
  float* every = nullptr;          // [T, H, R, K] or null
  float* checkpoints = nullptr;    // [T / kStage + B, H, R, K] or null: S before each stage
};

// Stage i of sequence b is checkpoint cu[b] / kStage + b + i: an upper bound that needs no prefix sum.
__device__ inline int64_t checkpoint_index(int64_t begin, int64_t b, int64_t stage) {
  return begin / kStage + b + stage;
}

// Sum over the 8 lanes of a row; all of them get it.
__device__ inline float row_sum(float x) {
  for (int offset = kLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffU, x, offset);
  return x;
}

// Loads `width` values into `padded` places, zeros behind them, by the block's threads: to[i][k] for i < count tokens.
// Token i is first + i, or first - i in reverse.
template <bool kReverse, class E>
__device__ void load_stage(const Operand<E>& from, int64_t h, int64_t heads, int64_t first, int count, int64_t column,
                           int padded, float* to) {
  for (int index = static_cast<int>(threadIdx.x); index < count * padded; index += kThreads) {
    const int i = index / padded;
    const int64_t k = column + index % padded;
    const int64_t t = kReverse ? first - i : first + i;
    to[index] = k < from.width ? static_cast<float>(from.at(t, h, heads)[k]) : 0.0F;
  }
}

// Grid: (row tiles, heads, batch). kColumns: columns per lane, 8 * kColumns >= K.
template <class E, class Out, int kColumns, bool kReverse>
__global__ void __launch_bounds__(kThreads) scan_kernel(ScanArgs<E, Out> a) {
  constexpr int kPadded = kColumns * kLanes;
  __shared__ float v[kStage * kPadded];
  __shared__ float w[kStage * kPadded];
  __shared__ float u[kStage * kRows];
  __shared__ float decay[kStage], alpha[kStage], beta[kStage];
  const int64_t h = blockIdx.y;
  const int64_t b = blockIdx.z;
  const int64_t begin = a.cu[b];
  const int64_t end = a.cu[b + 1];
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int local_row = static_cast<int>(threadIdx.x) / kLanes;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kRows;
  const int64_t row = first_row + local_row;
  const int64_t columns = a.v.width;
  const bool in_range = row < a.u.width;
  const auto state_at = [&](int64_t outer, int j) {
    return ((outer * a.heads + h) * a.u.width + row) * columns + lane + j * kLanes;
  };
  const int64_t slot = a.slots != nullptr ? a.slots[b] : b;
  const float skip = a.skip != nullptr ? a.skip[h] : 0.0F;

  float state[kColumns];
#pragma unroll
  for (int j = 0; j < kColumns; ++j) {
    const int64_t column = lane + j * kLanes;
    const bool known = a.initial != nullptr && in_range && column < columns;
    const int64_t transposed = ((slot * a.heads + h) * columns + column) * a.u.width + row;
    state[j] = known ? a.initial[a.initial_transposed ? transposed : state_at(slot, j)] : 0.0F;
  }
  const auto store_state = [&](float* to, int64_t outer) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      if (in_range && lane + j * kLanes < columns) to[state_at(outer, j)] = state[j];
    }
  };

  for (int64_t done = 0; done < end - begin; done += kStage) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kStage), end - begin - done));
    const int64_t first = kReverse ? end - 1 - done : begin + done;
    __syncthreads();  // the previous stage has been read
    load_stage<kReverse>(a.v, h, a.heads, first, count, 0, kPadded, v);
    load_stage<kReverse>(a.w, h, a.heads, first, count, 0, kPadded, w);
    load_stage<kReverse>(a.u, h, a.heads, first, count, first_row, kRows, u);
    if (static_cast<int>(threadIdx.x) < count) {
      const int i = static_cast<int>(threadIdx.x);
      const int64_t t = kReverse ? first - i : first + i;
      // Backward in time the factor between t and t+1 is that of t+1; the last token takes the initial S as it is.
      const int64_t source = kReverse ? t + 1 : t;
      decay[i] = source < end ? a.decay[source * a.heads + h] : 1.0F;
      alpha[i] = a.alpha != nullptr ? a.alpha[t * a.heads + h] : 1.0F;
      beta[i] = a.beta != nullptr ? a.beta[t * a.heads + h] : 1.0F;
    }
    __syncthreads();
    if (a.checkpoints != nullptr) store_state(a.checkpoints, checkpoint_index(begin, b, done / kStage));
    for (int i = 0; i < count; ++i) {
      const int64_t t = kReverse ? first - i : first + i;
      const float value = u[i * kRows + local_row];
      const float input = value * alpha[i];
      const float factor = decay[i];
      float sum = 0.0F;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const int k = i * kPadded + lane + j * kLanes;
        state[j] = state[j] * factor + input * v[k];
        sum += state[j] * w[k];
      }
      if (a.out != nullptr) {
        sum = row_sum(sum);
        if (lane == 0 && in_range) {
          a.out[t * a.out_stride + h * a.u.width + row] = Out(sum * beta[i] + skip * value);
        }
      }
      if (a.every != nullptr) store_state(a.every, t);
    }
  }
  // A thread reads and writes the same elements, so final and initial may be one buffer.
  if (a.final_state != nullptr) store_state(a.final_state, slot);
}

}  // namespace matvlm::ssd_cuda
