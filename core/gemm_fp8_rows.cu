// The scaling of a product of fp8 numbers where cuBLASLt does not do it; see scale_fp8_product_cuda.
#include "core/cuda_context.h"
#include "core/gemm_fp8_device.h"

namespace matvlm {
namespace {

template <class T>
__global__ void scale_product_kernel(Fp8GemmArgs g, const float* product) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= g.n) return;
  const float scale = g.scale_b[column];
  const float bias = g.bias != nullptr ? static_cast<float>(static_cast<const T*>(g.bias)[column]) : 0.0F;
  for (int64_t row = blockIdx.y; row < g.m; row += gridDim.y) {
    T& value = static_cast<T*>(g.c)[row * g.ldc + column];
    const float rest = g.beta == 0.0F ? bias : g.beta * static_cast<float>(value);
    value = static_cast<T>(product[row * g.n + column] * g.scale_a[row] * scale + rest);
  }
}

}  // namespace

void scale_fp8_product_cuda(Context& ctx, const Fp8GemmArgs& args, const float* product) {
  if (args.m == 0 || args.n == 0) return;
  constexpr int kThreads = 256;
  const dim3 grid(static_cast<unsigned>((args.n + kThreads - 1) / kThreads),
                  static_cast<unsigned>(args.m < 65535 ? args.m : 65535));
  if (args.output == DType::f32) {
    scale_product_kernel<float><<<grid, kThreads, 0, cuda_stream(ctx)>>>(args, product);
  } else {
    scale_product_kernel<bf16><<<grid, kThreads, 0, cuda_stream(ctx)>>>(args, product);
  }
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm
