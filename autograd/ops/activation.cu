// Activations on the GPU, in float32.
#include "autograd/ops/activation.h"
#include "autograd/ops/elementwise.cuh"

namespace matvlm {
namespace {

constexpr int kThreads = 256;

__device__ float sigmoid(float z) {
  const float e = expf(-fabsf(z));
  return (z < 0 ? e : 1.0F) / (1.0F + e);
}

// s (1 - s) of the logistic function, without cancellation.
__device__ float sigmoid_slope(float z) {
  const float e = expf(-fabsf(z));
  return e / ((1.0F + e) * (1.0F + e));
}

constexpr float kGeluScale = 1.5957691216057308F;  // 2 sqrt(2/pi): (1 + tanh(u)) / 2 is the logistic function at 2u
constexpr float kGeluCubic = 0.044715F;

__device__ float activate(Activation kind, float x) {
  switch (kind) {
    case Activation::gelu_tanh:
      return x * sigmoid(kGeluScale * (x + kGeluCubic * x * x * x));
    case Activation::gelu_erf:
      return 0.5F * x * erfcf(-0.70710678F * x);
    default:
      return x * sigmoid(x);
  }
}

__device__ float activate_slope(Activation kind, float x) {
  switch (kind) {
    case Activation::gelu_tanh: {
      const float z = kGeluScale * (x + kGeluCubic * x * x * x);
      return sigmoid(z) + x * sigmoid_slope(z) * kGeluScale * (1.0F + 3.0F * kGeluCubic * x * x);
    }
    case Activation::gelu_erf:
      return 0.5F * erfcf(-0.70710678F * x) + x * 0.39894228F * expf(-0.5F * x * x);
    default:
      return sigmoid(x) + x * sigmoid_slope(x);
  }
}

// Calls f(row, column) for every element.
template <class F>
__device__ void for_each_element(int64_t rows, int64_t cols, const F& f) {
  const int64_t n = rows * cols;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    const int64_t row = i / cols;
    f(row, i - row * cols);
  }
}

template <class T>
__global__ void activation_forward_kernel(ActivationForward<T> a) {
  for_each_element(a.rows, a.cols, [&](int64_t r, int64_t c) {
    store_float(a.y + r * a.y_stride + c, activate(a.kind, load_float(a.x + r * a.x_stride + c)));
  });
}

template <class T>
__global__ void activation_backward_kernel(ActivationBackward<T> a) {
  for_each_element(a.rows, a.cols, [&](int64_t r, int64_t c) {
    const float slope = activate_slope(a.kind, load_float(a.x + r * a.x_stride + c));
    store_or_add(a.dx + r * a.dx_stride + c, load_float(a.dy + r * a.dy_stride + c) * slope, a.accumulate);
  });
}

template <class T>
__global__ void swiglu_forward_kernel(SwigluForward<T> a) {
  for_each_element(a.rows, a.cols, [&](int64_t r, int64_t c) {
    const float gate = load_float(a.gate + r * a.gate_stride + c);
    store_float(a.y + r * a.y_stride + c, activate(Activation::silu, gate) * load_float(a.up + r * a.up_stride + c));
  });
}

template <class T>
__global__ void swiglu_backward_kernel(SwigluBackward<T> a) {
  for_each_element(a.rows, a.cols, [&](int64_t r, int64_t c) {
    const float dy = load_float(a.dy + r * a.dy_stride + c);
    const float gate = load_float(a.gate + r * a.gate_stride + c);
    if (a.dgate != nullptr) {
      const float up = load_float(a.up + r * a.up_stride + c);
      store_or_add(a.dgate + r * a.dgate_stride + c, dy * up * activate_slope(Activation::silu, gate),
                   a.accumulate_gate);
    }
    if (a.dup != nullptr) {
      store_or_add(a.dup + r * a.dup_stride + c, dy * activate(Activation::silu, gate), a.accumulate_up);
    }
  });
}

}  // namespace

template <class T>
void activation_forward_cuda(Context& ctx, const ActivationForward<T>& args) {
  if (args.rows == 0 || args.cols == 0) return;
  activation_forward_kernel<<<grid_for(args.rows * args.cols, kThreads), kThreads, 0, cuda_stream(ctx)>>>(args);
  MATVLM_LAUNCH_CHECK();
}

template <class T>
void activation_backward_cuda(Context& ctx, const ActivationBackward<T>& args) {
  if (args.rows == 0 || args.cols == 0) return;
  activation_backward_kernel<<<grid_for(args.rows * args.cols, kThreads), kThreads, 0, cuda_stream(ctx)>>>(args);
  MATVLM_LAUNCH_CHECK();
}

template <class T>
void swiglu_forward_cuda(Context& ctx, const SwigluForward<T>& args) {
  if (args.rows == 0 || args.cols == 0) return;
  swiglu_forward_kernel<<<grid_for(args.rows * args.cols, kThreads), kThreads, 0, cuda_stream(ctx)>>>(args);
  MATVLM_LAUNCH_CHECK();
}

template <class T>
void swiglu_backward_cuda(Context& ctx, const SwigluBackward<T>& args) {
  if (args.rows == 0 || args.cols == 0) return;
  swiglu_backward_kernel<<<grid_for(args.rows * args.cols, kThreads), kThreads, 0, cuda_stream(ctx)>>>(args);
  MATVLM_LAUNCH_CHECK();
}

template void activation_forward_cuda<float>(Context&, const ActivationForward<float>&);
template void activation_forward_cuda<bf16>(Context&, const ActivationForward<bf16>&);
template void activation_backward_cuda<float>(Context&, const ActivationBackward<float>&);
template void activation_backward_cuda<bf16>(Context&, const ActivationBackward<bf16>&);
template void swiglu_forward_cuda<float>(Context&, const SwigluForward<float>&);
template void swiglu_forward_cuda<bf16>(Context&, const SwigluForward<bf16>&);
template void swiglu_backward_cuda<float>(Context&, const SwigluBackward<float>&);
template void swiglu_backward_cuda<bf16>(Context&, const SwigluBackward<bf16>&);

}  // namespace matvlm
