// The patch convolution by cuDNN, the only file of the ops that includes cudnn.h. Algorithms are fixed, not searched:
// same inputs, same bits.
#include <cudnn.h>

#include <limits>

#include "autograd/ops/patch_embed_device.h"
#include "core/cuda_context.h"
#include "core/tensor.h"

namespace matvlm {
namespace {

void dnn_check(cudnnStatus_t status, const char* call) {
  if (status != CUDNN_STATUS_SUCCESS) fail("[patch_embed] ", call, ": ", cudnnGetErrorString(status));
}
#define MATVLM_DNN_CHECK(call) dnn_check((call), #call)

int dnn_size(int64_t n) {
  check(n <= std::numeric_limits<int>::max(), "[patch_embed] size ", n, " is larger than cuDNN takes");
  return static_cast<int>(n);
}

// Descriptors of one convolution: x [n, 3, S, S], w [D, 3, p, p], y [n, D, g, g], NCHW.
class Convolution {
 public:
  Convolution(const PatchGeometry& g, DType dtype, bool allow_tf32) {
    const cudnnDataType_t type = dtype == DType::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
    const int p = dnn_size(g.patch);
    MATVLM_DNN_CHECK(cudnnCreateTensorDescriptor(&x));
    MATVLM_DNN_CHECK(cudnnCreateTensorDescriptor(&y));
    MATVLM_DNN_CHECK(cudnnCreateFilterDescriptor(&w));
    MATVLM_DNN_CHECK(cudnnCreateConvolutionDescriptor(&convolution));
    MATVLM_DNN_CHECK(cudnnSetTensor4dDescriptor(x, CUDNN_TENSOR_NCHW, type, dnn_size(g.images), 3, dnn_size(g.side),
                                                dnn_size(g.side)));
    MATVLM_DNN_CHECK(cudnnSetTensor4dDescriptor(y, CUDNN_TENSOR_NCHW, type, dnn_size(g.images), dnn_size(g.width),
                                                dnn_size(g.grid()), dnn_size(g.grid())));
    MATVLM_DNN_CHECK(cudnnSetFilter4dDescriptor(w, type, CUDNN_TENSOR_NCHW, dnn_size(g.width), 3, p, p));
    MATVLM_DNN_CHECK(
        cudnnSetConvolution2dDescriptor(convolution, 0, 0, p, p, 1, 1, CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT));
    const bool fma = dtype == DType::f32 && !allow_tf32;
    MATVLM_DNN_CHECK(cudnnSetConvolutionMathType(convolution, fma ? CUDNN_FMA_MATH : CUDNN_TENSOR_OP_MATH));
  }
  ~Convolution() {
    if (convolution != nullptr) cudnnDestroyConvolutionDescriptor(convolution);
    if (w != nullptr) cudnnDestroyFilterDescriptor(w);
    if (y != nullptr) cudnnDestroyTensorDescriptor(y);
    if (x != nullptr) cudnnDestroyTensorDescriptor(x);
  }
  Convolution(const Convolution&) = delete;
  Convolution& operator=(const Convolution&) = delete;

  cudnnTensorDescriptor_t x = nullptr, y = nullptr;
  cudnnFilterDescriptor_t w = nullptr;
  cudnnConvolutionDescriptor_t convolution = nullptr;
};

// The context's workspace, or a block of its own where that is too small.
struct Workspace {
  Workspace(Context& ctx, size_t bytes) : data(ctx.cuda()->workspace()) {
    if (static_cast<int64_t>(bytes) <= CudaContext::kWorkspaceBytes) return;
    own = Tensor::empty(ctx, {static_cast<int64_t>(bytes)}, DType::u8);
    data = own.raw();
  }
  Tensor own;
  void* data;
};

}  // namespace

void patch_convolution_cuda(Context& ctx, const PatchGeometry& geometry, DType dtype, const void* pixels, const void* w,
                            void* planes) {
  const cudnnHandle_t dnn = ctx.cuda()->dnn();
  const Convolution c(geometry, dtype, ctx.cuda()->allow_tf32);
  const cudnnConvolutionFwdAlgo_t algorithm = CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
  size_t bytes = 0;
  MATVLM_DNN_CHECK(cudnnGetConvolutionForwardWorkspaceSize(dnn, c.x, c.w, c.convolution, c.y, algorithm, &bytes));
  const Workspace workspace(ctx, bytes);
  const float one = 1;
  const float zero = 0;
  MATVLM_DNN_CHECK(cudnnConvolutionForward(dnn, &one, c.x, pixels, c.w, w, c.convolution, algorithm, workspace.data,
                                           bytes, &zero, c.y, planes));
}

void patch_filter_grad_cuda(Context& ctx, const PatchGeometry& geometry, const float* pixels, const float* dplanes,
                            float* dw) {
  const cudnnHandle_t dnn = ctx.cuda()->dnn();
  const Convolution c(geometry, DType::f32, ctx.cuda()->allow_tf32);
  // ALGO_1 is the deterministic one (0 and 3 sum by atomics).
  const cudnnConvolutionBwdFilterAlgo_t algorithm = CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1;
  size_t bytes = 0;
  MATVLM_DNN_CHECK(
      cudnnGetConvolutionBackwardFilterWorkspaceSize(dnn, c.x, c.y, c.convolution, c.w, algorithm, &bytes));
  const Workspace workspace(ctx, bytes);
  const float one = 1;
  MATVLM_DNN_CHECK(cudnnConvolutionBackwardFilter(dnn, &one, c.x, pixels, c.y, dplanes, c.convolution, algorithm,
                                                  workspace.data, bytes, &one, c.w, dw));
}

}  // namespace matvlm
