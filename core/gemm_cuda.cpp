// Matrix products on the GPU: cuBLASLt. One plan (descriptors and the heuristic's first algorithm) per shape, strides,
// alignment and type is kept by the context.
#include <cublasLt.h>

#include <array>
#include <map>
#include <memory>
#include <tuple>

#include "core/cuda_context.h"
#include "core/gemm_device.h"

namespace matvlm {
namespace {

void blas_check(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) fail("[gemm] ", call, ": ", cublasLtGetStatusString(status));
}
#define MATVLM_BLAS_CHECK(call) blas_check((call), #call)

cudaDataType_t data_type(DType t) { return t == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

// Largest power of two up to 256 that divides the address: column views start anywhere, and kernels with wide loads
// must not be chosen for them.
uint32_t alignment(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  uint32_t n = 256;
  while (n > 1 && address % n != 0) n /= 2;
  return n;
}

struct MatmulDescDeleter {
  void operator()(cublasLtMatmulDescOpaque_t* p) const { cublasLtMatmulDescDestroy(p); }
};
struct LayoutDeleter {
  void operator()(cublasLtMatrixLayoutOpaque_t* p) const { cublasLtMatrixLayoutDestroy(p); }
};
struct PreferenceDeleter {
  void operator()(cublasLtMatmulPreferenceOpaque_t* p) const { cublasLtMatmulPreferenceDestroy(p); }
};
using MatmulDesc = std::unique_ptr<cublasLtMatmulDescOpaque_t, MatmulDescDeleter>;
using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, LayoutDeleter>;
using Preference = std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, PreferenceDeleter>;

// cuBLASLt is column-major: a row-major matrix of r rows and c columns is its c x r matrix.
Layout make_layout(DType type, int64_t rows, int64_t cols, int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  // The stride of a single row means nothing to us, but cuBLASLt checks it.
  const int64_t ld = rows == 1 && stride < cols ? cols : stride;
  MATVLM_BLAS_CHECK(cublasLtMatrixLayoutCreate(&layout, data_type(type), static_cast<uint64_t>(cols),
                                               static_cast<uint64_t>(rows), ld));
  return Layout(layout);
}

struct Plan {
  MatmulDesc desc;
  Layout a, b, c;
  cublasLtMatmulAlgo_t algorithm{};
  bool found = false;
};

void choose_algorithm(CudaContext& cuda, const GemmArgs& g, Plan& plan) {
  cublasLtMatmulPreference_t raw = nullptr;
  MATVLM_BLAS_CHECK(cublasLtMatmulPreferenceCreate(&raw));
  const Preference preference(raw);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    MATVLM_BLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(raw, attribute, &value, sizeof(value)));
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(CudaContext::kWorkspaceBytes));
  // Split-K through the workspace is summed in a fixed order; INPLACE sums by atomics in the output and would not give
  // the same bits twice.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE | CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(g.b));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(g.a));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(g.c));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(g.c));
  cublasLtMatmulHeuristicResult_t result{};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(cuda.blas(), plan.desc.get(), plan.a.get(), plan.b.get(),
                                                               plan.c.get(), plan.c.get(), raw, 1, &result, &count);
  plan.found = status == CUBLAS_STATUS_SUCCESS && count > 0 && result.state == CUBLAS_STATUS_SUCCESS;
  plan.algorithm = result.algo;
}

// C = op(A) op(B) row-major is C^T = op(B)^T op(A)^T in column-major terms, so the operands change places.
Plan make_plan(CudaContext& cuda, const GemmArgs& g) {
  Plan plan;
  cublasLtMatmulDesc_t raw = nullptr;
  const bool tf32 = g.input == DType::f32 && cuda.allow_tf32;
  MATVLM_BLAS_CHECK(
      cublasLtMatmulDescCreate(&raw, tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F));
  plan.desc.reset(raw);
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    MATVLM_BLAS_CHECK(cublasLtMatmulDescSetAttribute(raw, attribute, &value, sizeof(value)));
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, g.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, g.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (g.bias != nullptr) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(g.output));
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.bias);
  }
  plan.a = g.transpose_b ? make_layout(g.input, g.n, g.k, g.ldb) : make_layout(g.input, g.k, g.n, g.ldb);
  plan.b = g.transpose_a ? make_layout(g.input, g.k, g.m, g.lda) : make_layout(g.input, g.m, g.k, g.lda);
  plan.c = make_layout(g.output, g.m, g.n, g.ldc);
  choose_algorithm(cuda, g, plan);
  return plan;
}

}  // namespace

// Everything that decides the plan.
struct GemmPlans {
  using Key = std::tuple<std::array<int64_t, 6>, std::array<uint32_t, 4>, std::array<bool, 4>, DType, DType>;
  std::map<Key, Plan> plans;
};

namespace {

const Plan& find_plan(CudaContext& cuda, const GemmArgs& args) {
  if (cuda.gemm_plans == nullptr) cuda.gemm_plans = std::make_shared<GemmPlans>();
  const GemmPlans::Key key = {{args.m, args.n, args.k, args.lda, args.ldb, args.ldc},
                              {alignment(args.a), alignment(args.b), alignment(args.c), alignment(args.bias)},
                              {args.transpose_a, args.transpose_b, args.bias != nullptr, cuda.allow_tf32},
                              args.input,
                              args.output};
  std::map<GemmPlans::Key, Plan>& plans = cuda.gemm_plans->plans;
  const auto found = plans.find(key);
  return found != plans.end() ? found->second : plans.emplace(key, make_plan(cuda, args)).first->second;
}

// C starts as the bias and the product is added: for what cuBLASLt's bias epilogue does not take. Rounded once, too.
void bias_then_product(Context& ctx, GemmArgs args) {
  scale_add_bias_cuda(ctx, args.m, args.n, 0.0F, args.bias, args.c, args.ldc, args.output);
  args.bias = nullptr;
  args.beta = 1.0F;
  gemm_cuda(ctx, args);
}

}  // namespace

void gemm_cuda(Context& ctx, const GemmArgs& args) {
  if (args.k == 0) {
    scale_add_bias_cuda(ctx, args.m, args.n, args.beta, args.bias, args.c, args.ldc, args.output);
    return;
  }
  // The heuristic has no say on the bias's alignment, and its kernels may load it in wide pieces.
  if (args.bias != nullptr && alignment(args.bias) < 16) return bias_then_product(ctx, args);
  CudaContext& cuda = *ctx.cuda();
  const Plan& plan = find_plan(cuda, args);
  if (!plan.found && args.bias != nullptr) return bias_then_product(ctx, args);
  check(plan.found, "[gemm] cuBLASLt has no algorithm for m ", args.m, " n ", args.n, " k ", args.k, " strides ",
        args.lda, " ", args.ldb, " ", args.ldc, " ", dtype_name(args.input), " -> ", dtype_name(args.output));
  if (args.bias != nullptr) {
    MATVLM_BLAS_CHECK(cublasLtMatmulDescSetAttribute(plan.desc.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, &args.bias,
                                                     sizeof(args.bias)));
  }
  MATVLM_BLAS_CHECK(cublasLtMatmul(cuda.blas(), plan.desc.get(), &args.alpha, args.b, plan.a.get(), args.a,
                                   plan.b.get(), &args.beta, args.c, plan.c.get(), args.c, plan.c.get(),
                                   &plan.algorithm, cuda.workspace(), CudaContext::kWorkspaceBytes, cuda.stream()));
}

}  // namespace matvlm
