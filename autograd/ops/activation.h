// Elementwise activations and the gated one of Llama's MLP.
//   R rows, C columns
#pragma once

#include <cstdint>

#include "autograd/graph.h"

namespace matvlm {

enum class Activation {
  gelu_tanh,  // x * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2   (gelu_new, gelu_pytorch_tanh)
  gelu_erf,   // x * (1 + erf(x / sqrt(2))) / 2
  silu,       // x * sigmoid(x)
};

// Elementwise on x [..., C] (may be a column view); the result is contiguous.
Var activation(Graph& g, const Var& x, Activation kind);

// y = activation of x, and dx = dy * its slope at x (accumulate: dx +=; dx may be dy): what the node and gelu_mlp
// share.
void activation_into(Context& ctx, Activation kind, const Tensor& x, const Tensor& y);
void activation_gradient_into(Context& ctx, Activation kind, const Tensor& dy, const Tensor& x, const Tensor& dx,
                              bool accumulate);

// silu(gate) * up; both of one shape and dtype, may be column views; the result is contiguous.
Var swiglu(Graph& g, const Var& gate, const Var& up);

template <class T>
struct ActivationForward {
  int64_t rows = 0, cols = 0;
  Activation kind = Activation::gelu_tanh;
  const T* x = nullptr;  // [R, C]
  int64_t x_stride = 0;
  T* y = nullptr;  // [R, C]
  int64_t y_stride = 0;
};

template <class T>
struct ActivationBackward {
  int64_t rows = 0, cols = 0;
  Activation kind = Activation::gelu_tanh;
  const T* dy = nullptr;  // [R, C]
  int64_t dy_stride = 0;
  const T* x = nullptr;  // [R, C]
  int64_t x_stride = 0;
  T* dx = nullptr;  // [R, C]
  int64_t dx_stride = 0;
  bool accumulate = false;  // dx += instead of dx =
};

template <class T>
struct SwigluForward {
  int64_t rows = 0, cols = 0;
  const T* gate = nullptr;  // [R, C]
  int64_t gate_stride = 0;
  const T* up = nullptr;  // [R, C]
  int64_t up_stride = 0;
  T* y = nullptr;  // [R, C]
  int64_t y_stride = 0;
};

template <class T>
struct SwigluBackward {
  int64_t rows = 0, cols = 0;
  const T* dy = nullptr;  // [R, C]
  int64_t dy_stride = 0;
  const T* gate = nullptr;  // [R, C]
  int64_t gate_stride = 0;
  const T* up = nullptr;  // [R, C]
  int64_t up_stride = 0;
  T* dgate = nullptr;  // [R, C] or nullptr: not wanted
  int64_t dgate_stride = 0;
  bool accumulate_gate = false;
  T* dup = nullptr;  // [R, C] or nullptr: not wanted
  int64_t dup_stride = 0;
  bool accumulate_up = false;
};

// activation.cu, for float and bf16; activation_no_cuda.cpp throws.
template <class T>
void activation_forward_cuda(Context& ctx, const ActivationForward<T>& args);
template <class T>
void activation_backward_cuda(Context& ctx, const ActivationBackward<T>& args);
template <class T>
void swiglu_forward_cuda(Context& ctx, const SwigluForward<T>& args);
template <class T>
void swiglu_backward_cuda(Context& ctx, const SwigluBackward<T>& args);

}  // namespace matvlm
