// Lengths and offsets of the sequences of a packed row, as cuDNN wants them.
#include "autograd/ops/attention_dnn_device.h"
#include "autograd/ops/elementwise.cuh"

namespace matvlm {
namespace {

__global__ void tables_kernel(DnnTables t) {
  for (int64_t b = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; b <= t.batch;
       b += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t first = t.cu[b];
    if (b < t.batch) t.lengths[b] = static_cast<int32_t>(t.cu[b + 1] - first);
    for (int i = 0; i < t.count; ++i) t.offsets[i * t.pitch + b] = static_cast<int32_t>(first * t.strides[i]);
  }
}

}  // namespace

void fill_dnn_tables(Context& ctx, const DnnTables& tables) {
  constexpr int kThreads = 128;
  tables_kernel<<<grid_for(tables.batch + 1, kThreads), kThreads, 0, cuda_stream(ctx)>>>(tables);
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm
