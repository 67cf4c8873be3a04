// Rotary position embedding (Su et al. 2021) on packed rows, half-split ("rotate-half") layout as in Phi and Llama:
// within each head, dims i and i + R/2 (i < R/2) form a pair that is turned by the angle position * theta^(-2i/R), or
// by position * frequencies[i] where a model scales them; dims R and above pass through.   T tokens, H heads, P head
// width, R rotary dims (even, <= P).
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "autograd/graph.h"

namespace matvlm {

// Raw op: y = rotated x (accumulate: y += rotated x); inverse turns backwards, which is also the gradient. y may be x
// itself, without accumulate.
template <class T>
struct RotaryArgs {
  int64_t tokens = 0;
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t rotary_dims = 0;
  double theta = 0;
  bool inverse = false;
  bool accumulate = false;
  const int32_t* positions = nullptr;  // [T], not negative
  const T* x = nullptr;                // [T, H*P]
  int64_t x_stride = 0;
  T* y = nullptr;  // [T, H*P]
  int64_t y_stride = 0;
  const double* frequencies = nullptr;  // [R/2] on the host: radians per position of each pair; nullptr: by theta
  float* table = nullptr;               // [T, R] or null, on a GPU: also written, see RotaryAngles
};

// The angles of a rotation, for raw ops that undo it.
struct RotaryAngles {
  int64_t dims = 0;                     // R; 0: no rotation
  const int32_t* positions = nullptr;   // [T]
  const double* frequencies = nullptr;  // [R/2] on the host
  const float* table = nullptr;         // [T, R] on a GPU: of a token R/2 cosines, then R/2 sines; may be null
};

// Radians per position of pair i.
template <class T>
double rotary_frequency(const RotaryArgs<T>& a, int64_t i) {
  if (a.frequencies != nullptr) return a.frequencies[i];
  return std::pow(a.theta, -2.0 * static_cast<double>(i) / static_cast<double>(a.rotary_dims));
}

// CUDA launcher, T = float or bf16; R <= 256. The CPU op is in rotary_cpu.h.
template <class T>
void rotary_cuda(Context& ctx, const RotaryArgs<T>& args);

// x [T, heads*head_dim] (f32; bf16 on a GPU), positions i32 [T] on the same device -> [T, heads*head_dim], contiguous.
// Error when rotary_dims is odd, negative or above head_dim. The error of cos and sin is that of one float32 rounding
// at any position up to 2^31: angles are reduced in double.
Var rotary(Graph& g, const Var& x, int64_t heads, int64_t head_dim, int64_t rotary_dims, double theta,
           const Tensor& positions);
// The same with given frequencies: 2 * frequencies.size() rotary dims.
Var rotary(Graph& g, const Var& x, int64_t heads, int64_t head_dim, const std::vector<double>& frequencies,
           const Tensor& positions);

// Rotates the first heads*head_dim columns of x [T, C >= heads*head_dim] where they are: q and k of a joined
// projection, say. x must be contiguous, the result of an op that does not read its output in backward, and in no
// other use. The result is x's memory, and backward turns the gradient in place too.
Var rotary_in_place(Graph& g, const Var& x, int64_t heads, int64_t head_dim, const std::vector<double>& frequencies,
                    const Tensor& positions);

// A rotation without a node of its own, for the op that hands on the gradients from before it: attention().
struct RotaryTurn {
  std::vector<double> frequencies;  // [R/2]; empty: no rotation
  Tensor positions;                 // i32 [T]
  Tensor table;                     // of RotaryAngles; undefined on the CPU and where nothing is recorded

  int64_t dims() const { return 2 * static_cast<int64_t>(frequencies.size()); }
  RotaryAngles angles() const;
};

// rotary_in_place() of x without the node, with the same conditions.
RotaryTurn turn_in_place(Graph& g, const Var& x, int64_t heads, int64_t head_dim,
                         const std::vector<double>& frequencies, const Tensor& positions);

}  // namespace matvlm
