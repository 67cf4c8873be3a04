// Checks and arguments of gemm_fused.h; the products are in gemm_cuda.cpp.
#include "core/gemm_fused.h"

#include "core/gemm_device.h"

namespace matvlm {
namespace {

// C [m, n] = A [m, k] op(B) of one dtype; false where the GPU's products do not apply.
bool set_product(Context& ctx, const Tensor& a, bool transpose_b, const Tensor& b, const Tensor& c, GemmArgs& args) {
  // Pinned products have one algorithm each, without an epilogue.
  if (!ctx.on_gpu() || products_pinned() || c.numel() == 0 || a.cols() == 0) return false;
  const int64_t b_inner = transpose_b ? b.cols() : b.dim(0);
  const int64_t b_outer = transpose_b ? b.dim(0) : b.cols();
  check(b.rank() == 2 && a.rows() == c.rows() && b_inner == a.cols() && b_outer == c.cols(), "[gemm] A ",
        shape_string(a.shape()), " times B ", shape_string(b.shape()), transpose_b ? "^T" : "", " does not give C ",
        shape_string(c.shape()));
  check_dtype("gemm", "A", a, c.dtype());
  check_dtype("gemm", "B", b, c.dtype());
  args.transpose_b = transpose_b;
  args.m = c.rows();
  args.n = c.cols();
  args.k = a.cols();
  args.a = a.raw();
  args.lda = a.row_stride();
  args.b = b.raw();
  args.ldb = b.row_stride();
  args.c = c.raw();
  args.ldc = c.row_stride();
  args.input = args.output = c.dtype();
  return true;
}

void set_bias(const Tensor& bias, GemmArgs& args) {
  if (!bias.defined()) return;
  check_shape("gemm", "bias", bias, {args.n});
  check_dtype("gemm", "bias", bias, args.output);
  args.bias = bias.raw();
}

void set_pre(const Tensor& pre, const Tensor& c, GemmArgs& args) {
  check_shape("gemm", "pre-activation", pre, c.shape());
  check_dtype("gemm", "pre-activation", pre, c.dtype());
  args.pre = pre.raw();
  args.ldpre = pre.row_stride();
}

// A context that only counts takes it that the GPU it stands for has the product.
bool run(Context& ctx, const GemmArgs& args) { return !ctx.computes() || try_gemm_cuda(ctx, args); }

}  // namespace

bool fused_residual(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& residual,
                    const Tensor& y) {
  GemmArgs args;
  if (!set_product(ctx, x, true, w, y, args)) return false;
  check_shape("gemm", "residual", residual, y.shape());
  check_dtype("gemm", "residual", residual, y.dtype());
  if (residual.row_stride() != y.row_stride()) return false;
  set_bias(bias, args);
  args.residual = residual.raw();
  args.beta = 1.0F;
  return run(ctx, args);
}

bool fused_gelu(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y,
                const Tensor& pre) {
  GemmArgs args;
  if (y.dtype() != DType::bf16 || !set_product(ctx, x, true, w, y, args)) return false;
  set_bias(bias, args);
  if (pre.defined()) set_pre(pre, y, args);
  args.epilogue = GemmEpilogue::gelu;
  return run(ctx, args);
}

bool fused_gelu_gradient(Context& ctx, const Tensor& dy, const Tensor& w, const Tensor& pre, const Tensor& dx) {
  GemmArgs args;
  if (dx.dtype() != DType::bf16 || !set_product(ctx, dy, false, w, dx, args)) return false;
  set_pre(pre, dx, args);
  args.epilogue = GemmEpilogue::gelu_gradient;
  return run(ctx, args);
}

}  // namespace matvlm
