// Matrix products, row-major with row strides: C[m,n] = alpha * op(A)[m,k] * op(B)[k,n] + beta * C, op = transpose or
// not. CPU: OpenBLAS (gemm.cpp). CUDA: cuBLASLt (gemm_cuda.cpp). Same inputs, same bits: algorithms are chosen from
// the shape, by a table (gemm_choice.h) or the library's heuristic, never by timing at run time.
#pragma once

#include <complex>
#include <cstdint>

#include "core/tensor.h"

namespace matvlm {

// Tensors as rows x cols matrices (leading dimensions flattened). Types: f32 x f32 -> f32; bf16 x bf16 -> bf16 or f32
// (float32 accumulation). Sizes are taken from the tensors and checked. With beta = 0, C is not read.
void gemm(Context& ctx, bool transpose_a, bool transpose_b, float alpha, const Tensor& a, const Tensor& b, float beta,
          const Tensor& c);

// As gemm with transpose_b, plus a bias row of length n added to every row of C (bias may be undefined): y = x W^T +
// bias.
void gemm_bias(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y);

// While one lives, products of this process that do not transpose A give each row of C the same bits whatever the
// number of rows: one algorithm for each n and k, and no sum over k in parts. So samples packed into one row of tokens
// get the bits they have alone. Costs speed.
class PinnedProducts {
 public:
  PinnedProducts();
  ~PinnedProducts();
  PinnedProducts(const PinnedProducts&) = delete;
  PinnedProducts& operator=(const PinnedProducts&) = delete;
};

// CPU kernels for float, double and std::complex<double> (no conjugation), on raw pointers.
template <class T>
void gemm_cpu(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a, int64_t lda,
              const T* b, int64_t ldb, T beta, T* c, int64_t ldc);

void set_blas_threads(int threads);

}  // namespace matvlm
