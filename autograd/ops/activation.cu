// Activations on the GPU, in float32: bound by memory, so the exponentials behind bf16 are the machine's own, whose
// error of some 1e-6 is far below bf16's rounding.
#include "autograd/ops/activation.h"
#include "autograd/ops/pack_rows.cuh"

namespace matvlm {
namespace {

// exp(-|z|) and its 1 / (1 + exp(-|z|)).
template <class T>
struct Logistic {
  float z, e, r;
  __device__ explicit Logistic(float at) : z(at) {
    if constexpr (std::is_same_v<T, float>) {
      e = expf(-fabsf(z));
      r = 1.0F / (1.0F + e);
    } else {
      e = __expf(-fabsf(z));
      r = __fdividef(1.0F, 1.0F + e);
    }
  }
  __device__ float value() const { return (z < 0 ? e : 1.0F) * r; }
  __device__ float slope() const { return e * r * r; }  // value (1 - value), without cancellation
};

constexpr float kGeluScale = 1.5957691216057308F;  // 2 sqrt(2/pi): (1 + tanh(u)) / 2 is the logistic function at 2u
constexpr float kGeluCubic = 0.044715F;

template <class T, Activation kKind>
__device__ float activate(float x) {
  if constexpr (kKind == Activation::gelu_tanh) {
    return x * Logistic<T>(kGeluScale * (x + kGeluCubic * x * x * x)).value();
  } else if constexpr (kKind == Activation::gelu_erf) {
    return 0.5F * x * erfcf(-0.70710678F * x);
  } else {
    return x * Logistic<T>(x).value();
  }
}

template <class T, Activation kKind>
__device__ float activate_slope(float x) {
  if constexpr (kKind == Activation::gelu_tanh) {
    const Logistic<T> s(kGeluScale * (x + kGeluCubic * x * x * x));
    return s.value() + x * s.slope() * kGeluScale * (1.0F + 3.0F * kGeluCubic * x * x);
  } else if constexpr (kKind == Activation::gelu_erf) {
    return 0.5F * erfcf(-0.70710678F * x) + x * 0.39894228F * expf(-0.5F * x * x);
  } else {
    const Logistic<T> s(x);
    return s.value() + x * s.slope();
  }
}

template <class T, int V, Activation kKind>
__global__ void activation_forward_kernel(ActivationForward<T> a) {
  for_each_pack<V>(a.rows, a.cols, [&](int64_t r, int64_t c) {
    float x[V];
    load_pack(x, a.x + r * a.x_stride + c);
#pragma unroll
    for (int i = 0; i < V; ++i) x[i] = activate<T, kKind>(x[i]);
    store_pack(a.y + r * a.y_stride + c, x);
  });
}

template <class T, int V, Activation kKind>
__global__ void activation_backward_kernel(ActivationBackward<T> a) {
  for_each_pack<V>(a.rows, a.cols, [&](int64_t r, int64_t c) {
    float x[V], dy[V];
    load_pack(x, a.x + r * a.x_stride + c);
    load_pack(dy, a.dy + r * a.dy_stride + c);
#pragma unroll
    for (int i = 0; i < V; ++i) dy[i] *= activate_slope<T, kKind>(x[i]);
    store_pack(a.dx + r * a.dx_stride + c, dy, a.accumulate);
  });
}

template <class T, int V>
__global__ void swiglu_forward_kernel(SwigluForward<T> a) {
  for_each_pack<V>(a.rows, a.cols, [&](int64_t r, int64_t c) {
    float gate[V], up[V];
    load_pack(gate, a.gate + r * a.gate_stride + c);
    load_pack(up, a.up + r * a.up_stride + c);
#pragma unroll
    for (int i = 0; i < V; ++i) up[i] *= activate<T, Activation::silu>(gate[i]);
    store_pack(a.y + r * a.y_stride + c, up);
  });
}

template <class T, int V>
__global__ void swiglu_backward_kernel(SwigluBackward<T> a) {
  for_each_pack<V>(a.rows, a.cols, [&](int64_t r, int64_t c) {
    float dy[V], gate[V], out[V];
    load_pack(dy, a.dy + r * a.dy_stride + c);
    load_pack(gate, a.gate + r * a.gate_stride + c);
    if (a.dgate != nullptr) {
      load_pack(out, a.up + r * a.up_stride + c);
#pragma unroll
      for (int i = 0; i < V; ++i) out[i] *= dy[i] * activate_slope<T, Activation::silu>(gate[i]);
      store_pack(a.dgate + r * a.dgate_stride + c, out, a.accumulate_gate);
    }
    if (a.dup != nullptr) {
#pragma unroll
      for (int i = 0; i < V; ++i) out[i] = dy[i] * activate<T, Activation::silu>(gate[i]);
      store_pack(a.dup + r * a.dup_stride + c, out, a.accumulate_up);
    }
  });
}

// Calls f with the kind as a constant.
template <class F>
void with_kind(Activation kind, const F& f) {
  switch (kind) {
    case Activation::gelu_tanh:
      return f(std::integral_constant<Activation, Activation::gelu_tanh>());
    case Activation::gelu_erf:
      return f(std::integral_constant<Activation, Activation::gelu_erf>());
    default:
      return f(std::integral_constant<Activation, Activation::silu>());
  }
}

}  // namespace

template <class T>
void activation_forward_cuda(Context& ctx, const ActivationForward<T>& args) {
  with_kind(args.kind, [&](auto kind) {
    launch_packs<T>(args.rows, args.cols, {{args.x, args.x_stride}, {args.y, args.y_stride}},
                    [&](auto width, dim3 grid, unsigned threads) {
                      activation_forward_kernel<T, width(), kind()><<<grid, threads, 0, cuda_stream(ctx)>>>(args);
                    });
  });
}

template <class T>
void activation_backward_cuda(Context& ctx, const ActivationBackward<T>& args) {
  with_kind(args.kind, [&](auto kind) {
    launch_packs<T>(args.rows, args.cols,
                    {{args.x, args.x_stride}, {args.dy, args.dy_stride}, {args.dx, args.dx_stride}},
                    [&](auto width, dim3 grid, unsigned threads) {
                      activation_backward_kernel<T, width(), kind()><<<grid, threads, 0, cuda_stream(ctx)>>>(args);
                    });
  });
}

template <class T>
void swiglu_forward_cuda(Context& ctx, const SwigluForward<T>& args) {
  launch_packs<T>(args.rows, args.cols,
                  {{args.gate, args.gate_stride}, {args.up, args.up_stride}, {args.y, args.y_stride}},
                  [&](auto width, dim3 grid, unsigned threads) {
                    swiglu_forward_kernel<T, width()><<<grid, threads, 0, cuda_stream(ctx)>>>(args);
                  });
}

template <class T>
void swiglu_backward_cuda(Context& ctx, const SwigluBackward<T>& args) {
  launch_packs<T>(args.rows, args.cols,
                  {{args.dy, args.dy_stride},
                   {args.gate, args.gate_stride},
                   {args.up, args.up_stride},
                   {args.dgate, args.dgate_stride},
                   {args.dup, args.dup_stride}},
                  [&](auto width, dim3 grid, unsigned threads) {
                    swiglu_backward_kernel<T, width()><<<grid, threads, 0, cuda_stream(ctx)>>>(args);
                  });
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
