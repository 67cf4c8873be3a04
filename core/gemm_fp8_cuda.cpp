// Products of fp8 matrices on the GPU: cuBLASLt. On Hopper it multiplies rows and columns by their scales itself; other
// GPUs get the product of the stored numbers in float32 and scale it in a second pass.
#include <cublasLt.h>

#include <array>
#include <map>
#include <memory>
#include <tuple>

#include "core/cublas_lt.cuh"
#include "core/gemm_fp8_device.h"
#include "core/tensor.h"

namespace matvlm {
namespace {

cudaDataType_t data_type(DType t) { return t == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

struct Plan {
  MatmulDesc desc;
  Layout a, b, c;
  cublasLtMatmulAlgo_t algorithm{};
  bool found = false;

  template <class Value>
  void set(cublasLtMatmulDescAttributes_t attribute, const Value& value) const {
    MATVLM_BLAS_CHECK(cublasLtMatmulDescSetAttribute(desc.get(), attribute, &value, sizeof(value)));
  }
  // Pointers change from call to call, the plan does not. C^T = B A^T in column-major terms: the operands change
  // places.
  void set_pointers(const Fp8GemmArgs& g, bool scaled) const {
    if (g.bias != nullptr) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.bias);
    if (!scaled) return;
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, g.scale_b);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, g.scale_a);
  }
};

// Scales per row and column inside the product. False where the library is too old to know them.
bool ask_for_row_scales(const Plan& plan) {
#if CUBLAS_VERSION >= 120900
  plan.set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, static_cast<int32_t>(CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F));
  plan.set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, static_cast<int32_t>(CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F));
  return true;
#else
  static_cast<void>(plan);
  return false;
#endif
}

// scaled: C = scale_a scale_b A B^T; else A B^T alone.
Plan make_plan(CudaContext& cuda, const Fp8GemmArgs& g, bool scaled) {
  Plan plan;
  cublasLtMatmulDesc_t raw = nullptr;
  MATVLM_BLAS_CHECK(cublasLtMatmulDescCreate(&raw, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  plan.desc.reset(raw);
  plan.set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  plan.set(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
  plan.set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, static_cast<int8_t>(g.sums == Fp8Sums::fast ? 1 : 0));
  if (scaled && !ask_for_row_scales(plan)) return plan;
  if (g.bias != nullptr) {
    plan.set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    plan.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(g.output));
  }
  plan.set_pointers(g, scaled);
  plan.a = make_layout(CUDA_R_8F_E4M3, g.n, g.k, g.k);
  plan.b = make_layout(CUDA_R_8F_E4M3, g.m, g.k, g.k);
  plan.c = make_layout(data_type(g.output), g.m, g.n, g.ldc);
  const AlgorithmLimits limits{blas_alignment(g.b), blas_alignment(g.a), blas_alignment(g.c)};
  plan.found = find_algorithm(cuda, plan.desc, plan.a, plan.b, plan.c, limits, plan.algorithm);
  return plan;
}

}  // namespace

// Everything that decides the plan.
struct Fp8GemmPlans {
  using Key = std::tuple<std::array<int64_t, 4>, std::array<uint32_t, 3>, std::array<bool, 2>, DType, Fp8Sums>;
  std::map<Key, Plan> plans;
};

namespace {

const Plan& find_plan(CudaContext& cuda, const Fp8GemmArgs& g, bool scaled) {
  if (cuda.fp8_gemm_plans == nullptr) cuda.fp8_gemm_plans = std::make_shared<Fp8GemmPlans>();
  const Fp8GemmPlans::Key key = {{g.m, g.n, g.k, g.ldc},
                                 {blas_alignment(g.a), blas_alignment(g.b), blas_alignment(g.c)},
                                 {g.bias != nullptr, scaled},
                                 g.output,
                                 g.sums};
  std::map<Fp8GemmPlans::Key, Plan>& plans = cuda.fp8_gemm_plans->plans;
  const auto found = plans.find(key);
  return found != plans.end() ? found->second : plans.emplace(key, make_plan(cuda, g, scaled)).first->second;
}

// False where cuBLASLt has no such product.
bool multiply(CudaContext& cuda, const Fp8GemmArgs& g, bool scaled) {
  // The heuristic has no say on the bias's alignment, and its kernels may load it in wide pieces.
  if (g.bias != nullptr && blas_alignment(g.bias) < 16) return false;
  const Plan& plan = find_plan(cuda, g, scaled);
  if (!plan.found) return false;
  plan.set_pointers(g, scaled);
  const float alpha = 1.0F;
  MATVLM_BLAS_CHECK(cublasLtMatmul(cuda.blas(), plan.desc.get(), &alpha, g.b, plan.a.get(), g.a, plan.b.get(), &g.beta,
                                   g.c, plan.c.get(), g.c, plan.c.get(), &plan.algorithm, cuda.workspace(),
                                   CudaContext::kWorkspaceBytes, cuda.stream()));
  return true;
}

}  // namespace

void gemm_fp8_cuda(Context& ctx, const Fp8GemmArgs& args) {
  CudaContext& cuda = *ctx.cuda();
  if (multiply(cuda, args, true)) return;
  Fp8GemmArgs plain = args;
  const Tensor product = Tensor::empty(ctx, {args.m, args.n}, DType::f32);
  plain.c = product.raw();
  plain.ldc = args.n;
  plain.output = DType::f32;
  plain.bias = nullptr;
  plain.beta = 0.0F;
  check(multiply(cuda, plain, false), "[gemm_fp8] cuBLASLt ", cublasLtGetVersion(), " has no algorithm for m ", args.m,
        " n ", args.n, " k ", args.k, " on compute capability ", cuda.compute_capability());
  scale_fp8_product_cuda(ctx, args, product.data<float>());
}

std::string fp8_obstacle_cuda(Context& ctx) {
  if (ctx.cuda()->compute_capability() >= 89) return "";
  return cat(ctx.description(), ", expected compute capability 8.9 or newer");
}

}  // namespace matvlm
