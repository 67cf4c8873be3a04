// Checks of gemm_fp8.h and its CPU side.
#include "core/gemm_fp8.h"

#include <algorithm>
#include <array>
#include <vector>

#include "core/dispatch.h"
#include "core/gemm.h"
#include "core/gemm_fp8_device.h"

namespace matvlm {
namespace {

void check_operand(Context& ctx, const char* name, const Fp8Matrix& x) {
  check(x.defined() && x.scale.defined(), "[gemm_fp8] ", name, " is undefined");
  check_dtype("gemm_fp8", name, x.values, DType::u8);
  check(x.values.rank() == 2 && x.values.contiguous(), "[gemm_fp8] ", name, ": found ", shape_string(x.values.shape()),
        ", expected a contiguous matrix");
  check_shape("gemm_fp8", "scale", x.scale, {x.values.dim(0)});
  check_dtype("gemm_fp8", "scale", x.scale, DType::f32);
  check(x.values.device() == ctx.device() && x.scale.device() == ctx.device(), "[gemm_fp8] ", name, ": found on ",
        device_name(x.values.device()), ", expected ", device_name(ctx.device()));
}

Fp8GemmArgs checked_args(Context& ctx, const Fp8Matrix& a, const Fp8Matrix& b, const Tensor& bias, float beta,
                         const Tensor& c) {
  check_operand(ctx, "A", a);
  check_operand(ctx, "B", b);
  Fp8GemmArgs args;
  args.m = a.values.dim(0);
  args.n = b.values.dim(0);
  args.k = a.values.dim(1);
  check(b.values.dim(1) == args.k && c.cols() == args.n && c.numel() == args.m * args.n, "[gemm_fp8] A ",
        shape_string(a.values.shape()), " times B ", shape_string(b.values.shape()), "^T does not give C ",
        shape_string(c.shape()));
  check(args.n % kFp8Multiple == 0 && args.k % kFp8Multiple == 0, "[gemm_fp8] B: found ",
        shape_string(b.values.shape()), ", expected multiples of ", kFp8Multiple);
  check(c.dtype() == DType::f32 || (ctx.on_gpu() && c.dtype() == DType::bf16), "[gemm_fp8] C: found ",
        dtype_name(c.dtype()), " on ", device_name(ctx.device()), ", expected f32", ctx.on_gpu() ? " or bf16" : "");
  check(c.device() == ctx.device(), "[gemm_fp8] C: found on ", device_name(c.device()), ", expected ",
        device_name(ctx.device()));
  if (bias.defined()) {
    check(beta == 0.0F, "[gemm_fp8] found a bias and beta ", beta, ", expected one of the two");
    check_shape("gemm_fp8", "bias", bias, {args.n});
    check_dtype("gemm_fp8", "bias", bias, c.dtype());
    args.bias = bias.raw();
  }
  args.a = a.values.raw();
  args.scale_a = a.scale.data<float>();
  args.b = b.values.raw();
  args.scale_b = b.scale.data<float>();
  args.beta = beta;
  args.c = c.raw();
  args.ldc = c.row_stride();
  args.output = c.dtype();
  return args;
}

// Stored numbers without their scales.
std::vector<float> stored_floats(const void* values, int64_t n) {
  std::array<float, 256> table;
  for (size_t i = 0; i < table.size(); ++i) {
    e4m3 number;
    number.bits = static_cast<uint8_t>(i);
    table[i] = static_cast<float>(number);
  }
  const auto* bits = static_cast<const uint8_t*>(values);
  std::vector<float> out(static_cast<size_t>(n));
  float* to = out.data();
#pragma omp parallel for if (n > 65536)
  for (int64_t i = 0; i < n; ++i) to[i] = table[bits[i]];
  return out;
}

void run_cpu(const Fp8GemmArgs& g) {
  const std::vector<float> a = stored_floats(g.a, g.m * g.k);
  const std::vector<float> b = stored_floats(g.b, g.n * g.k);
  std::vector<float> product(static_cast<size_t>(g.m * g.n));
  gemm_cpu<float>(false, true, g.m, g.n, g.k, 1.0F, a.data(), g.k, b.data(), g.k, 0.0F, product.data(), g.n);
  const float* bias = static_cast<const float*>(g.bias);
  const float* from = product.data();
#pragma omp parallel for if (g.m * g.n > 65536)
  for (int64_t i = 0; i < g.m; ++i) {
    float* c = static_cast<float*>(g.c) + i * g.ldc;
    for (int64_t j = 0; j < g.n; ++j) {
      const float rest = bias != nullptr ? bias[j] : g.beta == 0.0F ? 0.0F : g.beta * c[j];
      c[j] = from[i * g.n + j] * g.scale_a[i] * g.scale_b[j] + rest;
    }
  }
}

}  // namespace

void gemm_fp8(Context& ctx, const Fp8Matrix& a, const Fp8Matrix& b, const Tensor& bias, float beta, const Tensor& c,
              Fp8Sums sums) {
  Fp8GemmArgs args = checked_args(ctx, a, b, bias, beta, c);
  args.sums = sums;
  if (args.m == 0 || args.n == 0) return;
  check(args.k > 0, "[gemm_fp8] found depth 0, expected a positive one");
  dispatch_device(
      ctx, [&] { gemm_fp8_cuda(ctx, args); }, [&] { run_cpu(args); });
}

std::string fp8_obstacle(Context& ctx) { return ctx.on_gpu() ? fp8_obstacle_cuda(ctx) : ""; }

}  // namespace matvlm
