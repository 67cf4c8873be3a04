// One product in cuBLASLt's terms: descriptors from GemmArgs, algorithms from their attributes, the launch. For
// gemm_cuda.cpp and for the benchmark that looks for algorithms.
#pragma once

#include <algorithm>

#include "core/cublas_lt.cuh"
#include "core/gemm_choice.h"
#include "core/gemm_device.h"

namespace matvlm {

struct GemmProblem {
  MatmulDesc desc;
  Layout a, b, c;
};

inline cudaDataType_t blas_type(DType t) { return t == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

inline cublasComputeType_t blas_compute(const CudaContext& cuda, const GemmArgs& g) {
  return g.input == DType::f32 && cuda.allow_tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

inline cublasLtEpilogue_t blas_epilogue(const GemmArgs& g) {
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
inline uint32_t output_alignment(const GemmArgs& g) {
  return g.residual != nullptr ? std::min(blas_alignment(g.c), blas_alignment(g.residual)) : blas_alignment(g.c);
}

// In cuBLASLt's order, see make_problem().
inline AlgorithmLimits limits_of(const GemmArgs& g) {
  return {blas_alignment(g.b), blas_alignment(g.a), output_alignment(g), !g.pinned};
}

// C = op(A) op(B) row-major is C^T = op(B)^T op(A)^T in column-major terms, so the operands change places.
inline GemmProblem make_problem(const CudaContext& cuda, const GemmArgs& g) {
  GemmProblem p;
  cublasLtMatmulDesc_t raw = nullptr;
  MATVLM_BLAS_CHECK(cublasLtMatmulDescCreate(&raw, blas_compute(cuda, g), CUDA_R_32F));
  p.desc.reset(raw);
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    MATVLM_BLAS_CHECK(cublasLtMatmulDescSetAttribute(raw, attribute, &value, sizeof(value)));
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, g.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, g.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, blas_epilogue(g));
  if (g.bias != nullptr) {
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, blas_type(g.output));
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.bias);
  }
  if (g.pre != nullptr) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, g.pre);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, g.ldpre);
  }
  p.a = g.transpose_b ? make_layout(blas_type(g.input), g.n, g.k, g.ldb)
                      : make_layout(blas_type(g.input), g.k, g.n, g.ldb);
  p.b = g.transpose_a ? make_layout(blas_type(g.input), g.k, g.m, g.lda)
                      : make_layout(blas_type(g.input), g.m, g.k, g.lda);
  p.c = make_layout(blas_type(g.output), g.m, g.n, g.ldc);
  return p;
}

inline AlgorithmConfig config_of(const cublasLtMatmulAlgo_t& algorithm) {
  AlgorithmConfig out;
  const auto get = [&](cublasLtMatmulAlgoConfigAttributes_t attribute, auto& value) {
    size_t written = 0;
    MATVLM_BLAS_CHECK(cublasLtMatmulAlgoConfigGetAttribute(&algorithm, attribute, &value, sizeof(value), &written));
  };
  get(CUBLASLT_ALGO_CONFIG_ID, out.id);
  get(CUBLASLT_ALGO_CONFIG_TILE_ID, out.tile);
  get(CUBLASLT_ALGO_CONFIG_STAGES_ID, out.stages);
  get(CUBLASLT_ALGO_CONFIG_SPLITK_NUM, out.split_k);
  get(CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, out.reduction);
  get(CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, out.swizzle);
  get(CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, out.custom);
  get(CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, out.inner);
  get(CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, out.cluster);
  return out;
}

// The algorithm of these attributes; false where this library or device has none for the problem, its operands are not
// aligned as it needs or it asks for more workspace than the context has.
inline bool make_algorithm(CudaContext& cuda, const GemmProblem& p, const GemmArgs& g, const AlgorithmConfig& config,
                           cublasLtMatmulAlgo_t& algorithm) {
  if (config.reduction == CUBLASLT_REDUCTION_SCHEME_INPLACE) return false;  // other bits every time
  const cudaDataType_t in = blas_type(g.input), out = blas_type(g.output);
  if (cublasLtMatmulAlgoInit(cuda.blas(), blas_compute(cuda, g), CUDA_R_32F, in, in, out, out, config.id, &algorithm) !=
      CUBLAS_STATUS_SUCCESS) {
    return false;
  }
  const auto set = [&](cublasLtMatmulAlgoConfigAttributes_t attribute, const auto& value) {
    return cublasLtMatmulAlgoConfigSetAttribute(&algorithm, attribute, &value, sizeof(value)) == CUBLAS_STATUS_SUCCESS;
  };
  const bool known = set(CUBLASLT_ALGO_CONFIG_TILE_ID, config.tile) &&
                     set(CUBLASLT_ALGO_CONFIG_STAGES_ID, config.stages) &&
                     set(CUBLASLT_ALGO_CONFIG_SPLITK_NUM, config.split_k) &&
                     set(CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, config.reduction) &&
                     set(CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, config.swizzle) &&
                     set(CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, config.custom) &&
                     set(CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, config.inner) &&
                     set(CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, config.cluster);
  if (!known) return false;
  const AlgorithmLimits limits = limits_of(g);
  const auto aligned = [&](cublasLtMatmulAlgoCapAttributes_t attribute, uint32_t found) {
    uint32_t needed = 0;
    size_t written = 0;
    return cublasLtMatmulAlgoCapGetAttribute(&algorithm, attribute, &needed, sizeof(needed), &written) ==
               CUBLAS_STATUS_SUCCESS &&
           found >= needed;
  };
  cublasLtMatmulHeuristicResult_t checked{};
  return aligned(CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_A_BYTES, limits.align_a) &&
         aligned(CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_B_BYTES, limits.align_b) &&
         aligned(CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_C_BYTES, limits.align_c) &&
         aligned(CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_D_BYTES, limits.align_c) &&
         cublasLtMatmulAlgoCheck(cuda.blas(), p.desc.get(), p.a.get(), p.b.get(), p.c.get(), p.c.get(), &algorithm,
                                 &checked) == CUBLAS_STATUS_SUCCESS &&
         checked.workspaceSize <= static_cast<size_t>(CudaContext::kWorkspaceBytes);
}

// The addresses are those of `g`, which may differ from those that the problem was made with.
inline cublasStatus_t launch_product(CudaContext& cuda, const GemmProblem& p, const GemmArgs& g,
                                     const cublasLtMatmulAlgo_t& algorithm) {
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    MATVLM_BLAS_CHECK(cublasLtMatmulDescSetAttribute(p.desc.get(), attribute, &value, sizeof(value)));
  };
  if (g.bias != nullptr) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.bias);
  if (g.pre != nullptr) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, g.pre);
  const void* added = g.residual != nullptr ? g.residual : g.c;
  return cublasLtMatmul(cuda.blas(), p.desc.get(), &g.alpha, g.b, p.a.get(), g.a, p.b.get(), &g.beta, added, p.c.get(),
                        g.c, p.c.get(), &algorithm, cuda.workspace(), CudaContext::kWorkspaceBytes, cuda.stream());
}

}  // namespace matvlm
