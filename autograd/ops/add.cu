// Elementwise sums on the GPU.
#include "autograd/ops/add_device.h"
#include "autograd/ops/pack_rows.cuh"
#include "core/tensor.h"

namespace matvlm {
namespace {

template <class T, int V>
__global__ void add_kernel(AddDeviceArgs args) {
  for_each_pack<V>(args.rows, args.cols, [&](int64_t row, int64_t col) {
    T* dst = static_cast<T*>(args.dst) + row * args.dst_stride + col;
    float sum[V] = {};
    if (args.accumulate) load_pack(sum, dst);
#pragma unroll
    for (int k = 0; k < kMaxAddTerms; ++k) {
      if (k >= args.count) continue;
      float term[V];
      load_pack(term, static_cast<const T*>(args.terms[k]) + row * args.strides[k] + col);
#pragma unroll
      for (int i = 0; i < V; ++i) sum[i] += term[i];
    }
    store_pack(dst, sum);
  });
}

}  // namespace

void add_cuda(Context& ctx, const AddDeviceArgs& args) {
  dispatch_float("add", args.dtype, [&](auto type) {
    using T = decltype(type);
    const auto term = [&](int k) { return PackedOperand<T>{static_cast<const T*>(args.terms[k]), args.strides[k]}; };
    static_assert(kMaxAddTerms == 4);
    launch_packs<T>(args.rows, args.cols,
                    {term(0), term(1), term(2), term(3), {static_cast<const T*>(args.dst), args.dst_stride}},
                    [&](auto width, dim3 grid, unsigned threads) {
                      add_kernel<T, width()><<<grid, threads, 0, cuda_stream(ctx)>>>(args);
                    });
  });
}

}  // namespace matvlm
