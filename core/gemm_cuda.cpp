// Matrix products on the GPU: cuBLASLt. One plan (descriptors and the heuristic's first algorithm) per shape, strides,
// alignment and type is kept by the context.
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <tuple>

#include "core/cublas_lt.cuh"
#include "core/gemm_device.h"

namespace matvlm {
namespace {

cudaDataType_t data_type(DType t) { return t == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

// The rows that pinned products are planned for, however many they have.
constexpr int64_t kPinnedRows = 1024;

struct Plan {
  MatmulDesc desc;
  Layout a, b, c;
  cublasLtMatmulAlgo_t algorithm{};
  bool found = false;
};

cublasLtEpilogue_t blas_epilogue(const GemmArgs& g) {
  const bool bias = g.bias != nullptr;
  switch (g.epilogue) {
    case GemmEpilogue::gelu:
      if (g.pre != nullptr) return bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
      return bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    case GemmEpilogue::gelu_gradient:
      return CUBLASLT_EPILOGUE_DGELU;
    default:
      return bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  }
}

// Of what is read in C's layout and of C itself.
uint32_t output_alignment(const GemmArgs& g) {
  return g.residual != nullptr ? std::min(blas_alignment(g.c), blas_alignment(g.residual)) : blas_alignment(g.c);
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
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, blas_epilogue(g));
  if (g.bias != nullptr) {
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(g.output));
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.bias);
  }
  if (g.pre != nullptr) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, g.pre);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, g.ldpre);
  }
  plan.a = g.transpose_b ? make_layout(data_type(g.input), g.n, g.k, g.ldb)
                         : make_layout(data_type(g.input), g.k, g.n, g.ldb);
  plan.b = g.transpose_a ? make_layout(data_type(g.input), g.k, g.m, g.lda)
                         : make_layout(data_type(g.input), g.m, g.k, g.lda);
  plan.c = make_layout(data_type(g.output), g.m, g.n, g.ldc);
  const AlgorithmLimits limits{blas_alignment(g.b), blas_alignment(g.a), output_alignment(g), !g.pinned};
  if (!g.pinned) {
    plan.found = find_algorithm(cuda, plan.desc, plan.a, plan.b, plan.c, limits, plan.algorithm);
    return plan;
  }
  // The algorithm is that of a fixed number of rows; pinned products do not transpose A.
  const Layout b = make_layout(data_type(g.input), kPinnedRows, g.k, std::max(g.lda, g.k));
  const Layout c = make_layout(data_type(g.output), kPinnedRows, g.n, std::max(g.ldc, g.n));
  cublasLtMatmulHeuristicResult_t checked{};
  plan.found = find_algorithm(cuda, plan.desc, plan.a, b, c, limits, plan.algorithm) &&
               cublasLtMatmulAlgoCheck(cuda.blas(), plan.desc.get(), plan.a.get(), plan.b.get(), plan.c.get(),
                                       plan.c.get(), &plan.algorithm, &checked) == CUBLAS_STATUS_SUCCESS;
  return plan;
}

}  // namespace

// Everything that decides the plan.
struct GemmPlans {
  using Key =
      std::tuple<std::array<int64_t, 7>, std::array<uint32_t, 5>, std::array<bool, 6>, GemmEpilogue, DType, DType>;
  std::map<Key, Plan> plans;
};

namespace {

const Plan& find_plan(CudaContext& cuda, const GemmArgs& args) {
  if (cuda.gemm_plans == nullptr) cuda.gemm_plans = std::make_shared<GemmPlans>();
  const GemmPlans::Key key = {
      {args.m, args.n, args.k, args.lda, args.ldb, args.ldc, args.ldpre},
      {blas_alignment(args.a), blas_alignment(args.b), output_alignment(args), blas_alignment(args.bias),
       blas_alignment(args.pre)},
      {args.transpose_a, args.transpose_b, args.bias != nullptr, args.pre != nullptr, cuda.allow_tf32, args.pinned},
      args.epilogue,
      args.input,
      args.output};
  std::map<GemmPlans::Key, Plan>& plans = cuda.gemm_plans->plans;
  const auto found = plans.find(key);
  return found != plans.end() ? found->second : plans.emplace(key, make_plan(cuda, args)).first->second;
}

void run_plan(CudaContext& cuda, const Plan& plan, const GemmArgs& args) {
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    MATVLM_BLAS_CHECK(cublasLtMatmulDescSetAttribute(plan.desc.get(), attribute, &value, sizeof(value)));
  };
  if (args.bias != nullptr) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias);
  if (args.pre != nullptr) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, args.pre);
  const void* added = args.residual != nullptr ? args.residual : args.c;
  MATVLM_BLAS_CHECK(cublasLtMatmul(cuda.blas(), plan.desc.get(), &args.alpha, args.b, plan.a.get(), args.a,
                                   plan.b.get(), &args.beta, added, plan.c.get(), args.c, plan.c.get(), &plan.algorithm,
                                   cuda.workspace(), CudaContext::kWorkspaceBytes, cuda.stream()));
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
  if (args.bias != nullptr && blas_alignment(args.bias) < 16) return bias_then_product(ctx, args);
  CudaContext& cuda = *ctx.cuda();
  const Plan& plan = find_plan(cuda, args);
  if (!plan.found && args.bias != nullptr) return bias_then_product(ctx, args);
  check(plan.found, "[gemm] cuBLASLt has no algorithm for m ", args.m, " n ", args.n, " k ", args.k, " strides ",
        args.lda, " ", args.ldb, " ", args.ldc, " ", dtype_name(args.input), " -> ", dtype_name(args.output));
  run_plan(cuda, plan, args);
}

bool try_gemm_cuda(Context& ctx, const GemmArgs& args) {
  // As for a bias; cuBLASLt asks for 16 bytes of the pre-activation and its rows.
  const auto wide = [](const void* p) { return p == nullptr || blas_alignment(p) >= 16; };
  const int64_t row_bytes = args.ldpre * dtype_size(args.output);
  if (args.k == 0 || !wide(args.bias) || !wide(args.pre) || args.ldpre % 8 != 0 || row_bytes % 16 != 0) return false;
  CudaContext& cuda = *ctx.cuda();
  const Plan& plan = find_plan(cuda, args);
  if (plan.found) run_plan(cuda, plan, args);
  return plan.found;
}

}  // namespace matvlm
