// The elementwise rest of a matrix product on the GPU; see scale_add_bias_cuda in gemm_device.h.
#include "core/cuda_context.h"
#include "core/gemm_device.h"

namespace matvlm {
namespace {

template <class T>
__global__ void scale_add_bias_kernel(int64_t m, int64_t n, float beta, const T* bias, T* c, int64_t ldc) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= n) return;
  const float added = bias != nullptr ? static_cast<float>(bias[column]) : 0.0F;
  for (int64_t row = blockIdx.y; row < m; row += gridDim.y) {
    T& value = c[row * ldc + column];
    value = static_cast<T>(beta == 0.0F ? added : beta * static_cast<float>(value) + added);
  }
}

template <class T>
void launch(cudaStream_t stream, int64_t m, int64_t n, float beta, const void* bias, void* c, int64_t ldc) {
  constexpr int kThreads = 256;
  const dim3 grid(static_cast<unsigned>((n + kThreads - 1) / kThreads), static_cast<unsigned>(m < 65535 ? m : 65535));
  scale_add_bias_kernel<T>
      <<<grid, kThreads, 0, stream>>>(m, n, beta, static_cast<const T*>(bias), static_cast<T*>(c), ldc);
  MATVLM_LAUNCH_CHECK();
}

}  // namespace

void scale_add_bias_cuda(Context& ctx, int64_t m, int64_t n, float beta, const void* bias, void* c, int64_t ldc,
                         DType dtype) {
  if (m == 0 || n == 0) return;
  if (dtype == DType::f32) {
    launch<float>(cuda_stream(ctx), m, n, beta, bias, c, ldc);
  } else {
    launch<bf16>(cuda_stream(ctx), m, n, beta, bias, c, ldc);
  }
}

}  // namespace matvlm
