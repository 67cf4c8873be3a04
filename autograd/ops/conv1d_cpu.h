// CPU kernels of the causal convolution with SiLU, templated on the scalar. Work is split over (sequence, channel
// block) forward and over channel blocks backward, so weight gradients are sums over tokens in order, whatever the
// threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "autograd/ops/conv1d.h"
#include "autograd/ops/lanes.h"

namespace matvlm {
namespace conv1d_cpu {

constexpr int64_t kBlock = 2 * kLanes;  // channels

// One sequence and one block of channels. Weights are transposed to [W][channels].
template <class S>
struct Block {
  int64_t width = 0, begin = 0, end = 0, channel = 0, count = 0;
  S weight[kConvMaxWidth][kBlock];
  S bias[kBlock];
  S zeros[kBlock];
  const Conv1dArgs<S>* args = nullptr;
  const S* initial = nullptr;  // [W-1, C] of this sequence

  Block(const Conv1dArgs<S>& a, int64_t block) : width(a.width), channel(block * kBlock), args(&a) {
    count = std::min(kBlock, a.channels - channel);
    for (int64_t i = 0; i < count; ++i) {
      bias[i] = a.bias[channel + i];
      zeros[i] = S(0);
      for (int64_t w = 0; w < width; ++w) weight[w][i] = a.weight[(channel + i) * width + w];
    }
  }
  void start_sequence(int64_t b) {
    begin = args->cu[b];
    end = args->cu[b + 1];
    const int64_t slot = args->slots != nullptr ? args->slots[b] : b;
    initial = args->initial != nullptr ? args->initial + slot * (width - 1) * args->channels : nullptr;
  }
  // Inputs at time t of the sequence; before its start those of the initial state.
  const S* input(int64_t t) const {
    if (t >= begin) return args->x + t * args->x_stride + channel;
    if (initial != nullptr) return initial + (t - begin + width - 1) * args->channels + channel;
    return zeros;
  }
  void preactivation(int64_t t, S* pre) const {
    for (int64_t i = 0; i < count; ++i) pre[i] = bias[i];
    for (int64_t w = 0; w < width; ++w) {
      const S* x = input(t - (width - 1) + w);
      const S* taps = weight[w];
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) pre[i] += taps[i] * x[i];
    }
  }
};

// The last W-1 inputs up to and including time t, oldest first, into `rows` [W-1, C].
template <class S>
void write_window(const Block<S>& block, int64_t t, S* rows) {
  const int64_t keep = block.width - 1;
  S window[kConvMaxWidth][kBlock];  // `rows` may be the initial state itself
  for (int64_t i = 0; i < keep; ++i) {
    std::copy_n(block.input(t - (keep - 1) + i), block.count, window[i]);
  }
  for (int64_t i = 0; i < keep; ++i) {
    std::copy_n(window[i], block.count, rows + i * block.args->channels + block.channel);
  }
}

template <class S>
void forward_sequence(const Conv1dArgs<S>& a, const Block<S>& block, int64_t b) {
  const int64_t row = (a.width - 1) * a.channels;
  S pre[kBlock];
  for (int64_t t = block.begin; t < block.end; ++t) {
    block.preactivation(t, pre);
    S* y = a.y + t * a.y_stride + block.channel;
#pragma omp simd
    for (int64_t i = 0; i < block.count; ++i) y[i] = pre[i] * simd_sigmoid(pre[i]);
    if (a.every != nullptr) write_window(block, t, a.every + t * row);
  }
  if (a.final_state != nullptr) {
    const int64_t slot = a.slots != nullptr ? a.slots[b] : b;
    write_window(block, block.end - 1, a.final_state + slot * row);
  }
}

// Gradients of one block of channels; sums over tokens into the block's accumulators.
template <class S>
struct BlockGradient {
  S weight[kConvMaxWidth][kBlock] = {};
  S bias[kBlock] = {};
  S dpre[kConvMaxWidth][kBlock];  // of the last W tokens, a ring
};

// dpre of time t into the ring, and its share of the weight gradients.
template <class S>
void backward_token(const Conv1dArgs<S>& a, const Block<S>& block, int64_t t, BlockGradient<S>& grad) {
  S pre[kBlock];
  block.preactivation(t, pre);
  const S* dy = a.dy + t * a.dy_stride + block.channel;
  S* dpre = grad.dpre[t % kConvMaxWidth];
#pragma omp simd
  for (int64_t i = 0; i < block.count; ++i) {
    const S s = simd_sigmoid(pre[i]);
    dpre[i] = dy[i] * s * (S(1) + pre[i] * (S(1) - s));
    grad.bias[i] += dpre[i];
  }
  for (int64_t w = 0; w < a.width; ++w) {
    const S* x = block.input(t - (a.width - 1) + w);
    S* sum = grad.weight[w];
#pragma omp simd
    for (int64_t i = 0; i < block.count; ++i) sum[i] += dpre[i] * x[i];
  }
}

// dx at time t from dpre of times t .. t+W-1 (zero from the end of the sequence on).
template <class S>
void write_dx(const Conv1dArgs<S>& a, const Block<S>& block, int64_t t, const BlockGradient<S>& grad) {
  S sum[kBlock] = {};
  for (int64_t j = 0; j < a.width && t + j < block.end; ++j) {
    const S* dpre = grad.dpre[(t + j) % kConvMaxWidth];
    const S* taps = block.weight[a.width - 1 - j];
#pragma omp simd
    for (int64_t i = 0; i < block.count; ++i) sum[i] += taps[i] * dpre[i];
  }
  S* dx = a.dx + t * a.dx_stride + block.channel;
  for (int64_t i = 0; i < block.count; ++i) dx[i] = a.dx_accumulate ? dx[i] + sum[i] : sum[i];
}

}  // namespace conv1d_cpu

template <class S>
void conv1d_forward_cpu(const Conv1dArgs<S>& a) {
  using namespace conv1d_cpu;
  const int64_t blocks = (a.channels + kBlock - 1) / kBlock;
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t i = 0; i < blocks; ++i) {
      Block<S> block(a, i);
      block.start_sequence(b);
      forward_sequence(a, block, b);
    }
  }
}

template <class S>
void conv1d_backward_cpu(const Conv1dArgs<S>& a) {
  using namespace conv1d_cpu;
  const int64_t blocks = (a.channels + kBlock - 1) / kBlock;
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < blocks; ++i) {
    Block<S> block(a, i);
    BlockGradient<S> grad;
    for (int64_t b = 0; b < a.batch; ++b) {
      block.start_sequence(b);
      // dx of a token needs dpre of the W-1 tokens after it, so it follows W-1 tokens behind.
      for (int64_t t = block.begin; t < block.end + a.width - 1; ++t) {
        if (t < block.end) backward_token(a, block, t, grad);
        const int64_t ready = t - (a.width - 1);
        if (a.dx != nullptr && ready >= block.begin && ready < block.end) write_dx(a, block, ready, grad);
      }
    }
    for (int64_t c = 0; c < block.count; ++c) {
      if (a.dbias != nullptr) a.dbias[block.channel + c] += grad.bias[c];
      if (a.dweight == nullptr) continue;
      for (int64_t w = 0; w < a.width; ++w) a.dweight[(block.channel + c) * a.width + w] += grad.weight[w][c];
    }
  }
}

}  // namespace matvlm
