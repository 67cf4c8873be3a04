// Matrix products on the GPU: cuBLASLt. One plan (descriptors and algorithm) per shape, strides, alignment and type is
// kept by the context.
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <tuple>

#include "core/gemm_device.h"
#include "core/gemm_problem.cuh"

namespace matvlm {
namespace {

// The rows that pinned products are planned for, however many they have.
constexpr int64_t kPinnedRows = 1024;

struct Plan {
  GemmProblem problem;
  cublasLtMatmulAlgo_t algorithm{};
  bool found = false;
};

// The table's algorithm where it has one that fits, else the heuristic's first.
Plan make_plan(CudaContext& cuda, const GemmArgs& g) {
  Plan plan;
  plan.problem = make_problem(cuda, g);
  const GemmProblem& p = plan.problem;
  const AlgorithmLimits limits = limits_of(g);
  if (!g.pinned) {
    const AlgorithmConfig* chosen = chosen_algorithm(gemm_choices(), cuda.compute_capability(), g);
    plan.found = (chosen != nullptr && make_algorithm(cuda, p, g, *chosen, plan.algorithm)) ||
                 find_algorithm(cuda, p.desc, p.a, p.b, p.c, limits, plan.algorithm);
    return plan;
  }
  // The algorithm is that of a fixed number of rows; pinned products do not transpose A.
  const Layout b = make_layout(blas_type(g.input), kPinnedRows, g.k, std::max(g.lda, g.k));
  const Layout c = make_layout(blas_type(g.output), kPinnedRows, g.n, std::max(g.ldc, g.n));
  cublasLtMatmulHeuristicResult_t checked{};
  plan.found = find_algorithm(cuda, p.desc, p.a, b, c, limits, plan.algorithm) &&
               cublasLtMatmulAlgoCheck(cuda.blas(), p.desc.get(), p.a.get(), p.b.get(), p.c.get(), p.c.get(),
                                       &plan.algorithm, &checked) == CUBLAS_STATUS_SUCCESS;
  return plan;
}

}  // namespace

// Everything that decides the plan.
struct GemmPlans {
  using Key =
      std::tuple<std::array<int64_t, 7>, std::array<uint32_t, 5>, std::array<bool, 7>, GemmEpilogue, DType, DType>;
  std::map<Key, Plan> plans;
};

namespace {

const Plan& find_plan(CudaContext& cuda, const GemmArgs& args) {
  if (cuda.gemm_plans == nullptr) cuda.gemm_plans = std::make_shared<GemmPlans>();
  const GemmPlans::Key key = {{args.m, args.n, args.k, args.lda, args.ldb, args.ldc, args.ldpre},
                              {blas_alignment(args.a), blas_alignment(args.b), output_alignment(args),
                               blas_alignment(args.bias), blas_alignment(args.pre)},
                              {args.transpose_a, args.transpose_b, args.bias != nullptr, args.beta != 0.0F,
                               args.pre != nullptr, cuda.allow_tf32, args.pinned},
                              args.epilogue,
                              args.input,
                              args.output};
  std::map<GemmPlans::Key, Plan>& plans = cuda.gemm_plans->plans;
  const auto found = plans.find(key);
  return found != plans.end() ? found->second : plans.emplace(key, make_plan(cuda, args)).first->second;
}

void run_plan(CudaContext& cuda, const Plan& plan, const GemmArgs& args) {
  MATVLM_BLAS_CHECK(launch_product(cuda, plan.problem, args, plan.algorithm));
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
