// Checks of gemm.h and its CPU side: OpenBLAS, the only file that includes cblas.h.
#include "core/gemm.h"

#include <cblas.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <string>

#include "core/dispatch.h"
#include "core/gemm_device.h"

namespace matvlm {
namespace {

std::atomic<int> pinned_products{0};  // PinnedProducts alive

// Rows of a matrix view; Tensor::rows() is 0 for matrices without columns, which are legal here.
int64_t matrix_rows(const Tensor& t) {
  int64_t n = 1;
  for (int64_t i = 0; i + 1 < t.rank(); ++i) n *= t.dim(i);
  return n;
}

std::string matrix_string(bool transposed, const Tensor& t) {
  return cat("[", matrix_rows(t), ", ", t.cols(), "]", transposed ? "^T" : "");
}

GemmArgs checked_args(Context& ctx, bool transpose_a, bool transpose_b, const Tensor& a, const Tensor& b,
                      const Tensor& c) {
  GemmArgs args;
  args.transpose_a = transpose_a;
  args.transpose_b = transpose_b;
  args.m = matrix_rows(c);
  args.n = c.cols();
  args.k = transpose_a ? matrix_rows(a) : a.cols();
  const int64_t a_m = transpose_a ? a.cols() : matrix_rows(a);
  const int64_t b_k = transpose_b ? b.cols() : matrix_rows(b);
  const int64_t b_n = transpose_b ? matrix_rows(b) : b.cols();
  if (a_m != args.m || b_k != args.k || b_n != args.n) {
    fail("[gemm] A ", matrix_string(transpose_a, a), " times B ", matrix_string(transpose_b, b), " does not give C ",
         matrix_string(false, c));
  }
  if (!(a.device() == ctx.device() && b.device() == ctx.device() && c.device() == ctx.device())) {
    fail("[gemm] tensors on ", device_name(a.device()), ", ", device_name(b.device()), ", ", device_name(c.device()),
         ", expected ", device_name(ctx.device()));
  }
  const bool known = (a.dtype() == DType::f32 && c.dtype() == DType::f32) ||
                     (a.dtype() == DType::bf16 && (c.dtype() == DType::f32 || c.dtype() == DType::bf16));
  if (a.dtype() != b.dtype() || !known || (!ctx.on_gpu() && a.dtype() != DType::f32)) {
    fail("[gemm] found ", dtype_name(a.dtype()), " x ", dtype_name(b.dtype()), " -> ", dtype_name(c.dtype()), " on ",
         device_name(ctx.device()), ", expected f32 x f32 -> f32",
         ctx.on_gpu() ? " or bf16 x bf16 -> f32 or bf16" : "");
  }
  args.a = a.raw();
  args.b = b.raw();
  args.c = c.raw();
  args.lda = a.row_stride();
  args.ldb = b.row_stride();
  args.ldc = c.row_stride();
  args.input = a.dtype();
  args.output = c.dtype();
  args.pinned = pinned_products > 0 && !transpose_a;
  return args;
}

void run_cpu(const GemmArgs& g) {
  gemm_cpu<float>(g.transpose_a, g.transpose_b, g.m, g.n, g.k, g.alpha, static_cast<const float*>(g.a), g.lda,
                  static_cast<const float*>(g.b), g.ldb, g.beta, static_cast<float*>(g.c), g.ldc);
}

blasint blas_size(int64_t n) {
  check(n <= std::numeric_limits<blasint>::max(), "[gemm] size ", n, " is larger than OpenBLAS takes");
  return static_cast<blasint>(n);
}

void call(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, blasint m, blasint n, blasint k, float alpha, const float* a,
          blasint lda, const float* b, blasint ldb, float beta, float* c, blasint ldc) {
  cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void call(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, blasint m, blasint n, blasint k, double alpha, const double* a,
          blasint lda, const double* b, blasint ldb, double beta, double* c, blasint ldc) {
  cblas_dgemm(CblasRowMajor, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void call(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, blasint m, blasint n, blasint k, std::complex<double> alpha,
          const std::complex<double>* a, blasint lda, const std::complex<double>* b, blasint ldb,
          std::complex<double> beta, std::complex<double>* c, blasint ldc) {
  cblas_zgemm(CblasRowMajor, ta, tb, m, n, k, &alpha, a, lda, b, ldb, &beta, c, ldc);
}

// Row by row, each element's sum in the order of k: OpenBLAS's kernels for what is left of a tile add in another order.
template <class T>
void gemm_rows(bool transpose_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a, int64_t lda, const T* b,
               int64_t ldb, T beta, T* c, int64_t ldc) {
#pragma omp parallel for if (m * n * k > 65536)
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      T sum(0);
      for (int64_t l = 0; l < k; ++l) sum += a[i * lda + l] * (transpose_b ? b[j * ldb + l] : b[l * ldb + j]);
      T& out = c[i * ldc + j];
      out = alpha * sum + (beta == T(0) ? T(0) : beta * out);
    }
  }
}

}  // namespace

template <class T>
void gemm_cpu(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a, int64_t lda,
              const T* b, int64_t ldb, T beta, T* c, int64_t ldc) {
  if (m == 0 || n == 0) return;
  if (k == 0) {
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) c[i * ldc + j] = beta == T(0) ? T(0) : beta * c[i * ldc + j];
    }
    return;
  }
  if (pinned_products > 0 && !transpose_a) return gemm_rows(transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  // BLAS checks leading dimensions even of matrices of one row, whose stride means nothing to us.
  const auto ld = [](int64_t stride, int64_t cols) { return blas_size(std::max({stride, cols, int64_t{1}})); };
  call(transpose_a ? CblasTrans : CblasNoTrans, transpose_b ? CblasTrans : CblasNoTrans, blas_size(m), blas_size(n),
       blas_size(k), alpha, a, ld(lda, transpose_a ? m : k), b, ld(ldb, transpose_b ? k : n), beta, c, ld(ldc, n));
}

template void gemm_cpu<float>(bool, bool, int64_t, int64_t, int64_t, float, const float*, int64_t, const float*,
                              int64_t, float, float*, int64_t);
template void gemm_cpu<double>(bool, bool, int64_t, int64_t, int64_t, double, const double*, int64_t, const double*,
                               int64_t, double, double*, int64_t);
template void gemm_cpu<std::complex<double>>(bool, bool, int64_t, int64_t, int64_t, std::complex<double>,
                                             const std::complex<double>*, int64_t, const std::complex<double>*, int64_t,
                                             std::complex<double>, std::complex<double>*, int64_t);

void gemm(Context& ctx, bool transpose_a, bool transpose_b, float alpha, const Tensor& a, const Tensor& b, float beta,
          const Tensor& c) {
  GemmArgs args = checked_args(ctx, transpose_a, transpose_b, a, b, c);
  args.alpha = alpha;
  args.beta = beta;
  if (args.m == 0 || args.n == 0) return;
  dispatch_device(
      ctx, [&] { gemm_cuda(ctx, args); }, [&] { run_cpu(args); });
}

void gemm_bias(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y) {
  if (!bias.defined()) return gemm(ctx, false, true, 1.0F, x, w, 0.0F, y);
  GemmArgs args = checked_args(ctx, false, true, x, w, y);
  check_shape("gemm", "bias", bias, {args.n});
  check_dtype("gemm", "bias", bias, y.dtype());
  if (args.m == 0 || args.n == 0) return;
  args.bias = bias.raw();
  dispatch_device(
      ctx, [&] { gemm_cuda(ctx, args); },
      [&] {
        // C starts as the bias and the product is added: no extra pass over C after it.
        float* out = y.data<float>();
        const float* row = bias.data<float>();
        for (int64_t i = 0; i < args.m; ++i) std::copy(row, row + args.n, out + i * args.ldc);
        args.beta = 1.0F;
        run_cpu(args);
      });
}

bool products_pinned() { return pinned_products > 0; }

PinnedProducts::PinnedProducts() { ++pinned_products; }
PinnedProducts::~PinnedProducts() { --pinned_products; }

void set_blas_threads(int threads) { openblas_set_num_threads(threads); }

}  // namespace matvlm
