// cuBLASLt's objects as RAII types, for gemm*_cuda.cpp only.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <memory>

#include "core/cuda_context.h"

namespace matvlm {

inline void blas_check(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) fail("[gemm] ", call, ": ", cublasLtGetStatusString(status));
}
#define MATVLM_BLAS_CHECK(call) ::matvlm::blas_check((call), #call)

// Largest power of two up to 256 that divides the address: column views start anywhere, and kernels with wide loads
// must not be chosen for them.
inline uint32_t blas_alignment(const void* p) {
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
inline Layout make_layout(cudaDataType_t type, int64_t rows, int64_t cols, int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  // The stride of a single row means nothing to us, but cuBLASLt checks it.
  const int64_t ld = rows == 1 && stride < cols ? cols : stride;
  MATVLM_BLAS_CHECK(
      cublasLtMatrixLayoutCreate(&layout, type, static_cast<uint64_t>(cols), static_cast<uint64_t>(rows), ld));
  return Layout(layout);
}

// What decides an algorithm besides the shapes: the alignments of A, B, C in cuBLASLt's order, and whether k may be
// summed in parts.
struct AlgorithmLimits {
  uint32_t align_a = 16, align_b = 16, align_c = 16;
  bool split_k = true;
};

// What the heuristic proposes within `workspace` bytes, at most `most` results, best first; returns how many.
inline int find_algorithms(CudaContext& cuda, const MatmulDesc& desc, const Layout& a, const Layout& b, const Layout& c,
                           const AlgorithmLimits& limits, int64_t workspace, int most,
                           cublasLtMatmulHeuristicResult_t* results) {
  cublasLtMatmulPreference_t raw = nullptr;
  MATVLM_BLAS_CHECK(cublasLtMatmulPreferenceCreate(&raw));
  const Preference preference(raw);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    MATVLM_BLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(raw, attribute, &value, sizeof(value)));
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(limits.split_k ? workspace : 0));
  // Split-K through the workspace is summed in a fixed order; INPLACE sums by atomics in the output and would not give
  // the same bits twice.
  const uint32_t split = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE | CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE;
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      limits.split_k ? split : static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, limits.align_a);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, limits.align_b);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, limits.align_c);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, limits.align_c);
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(cuda.blas(), desc.get(), a.get(), b.get(), c.get(),
                                                               c.get(), raw, most, results, &count);
  return status == CUBLAS_STATUS_SUCCESS ? count : 0;
}

// The heuristic's first algorithm within the context's workspace; false when it has none.
inline bool find_algorithm(CudaContext& cuda, const MatmulDesc& desc, const Layout& a, const Layout& b, const Layout& c,
                           const AlgorithmLimits& limits, cublasLtMatmulAlgo_t& algorithm) {
  cublasLtMatmulHeuristicResult_t result{};
  const int count = find_algorithms(cuda, desc, a, b, c, limits, CudaContext::kWorkspaceBytes, 1, &result);
  algorithm = result.algo;
  return count > 0 && result.state == CUBLAS_STATUS_SUCCESS;
}

}  // namespace matvlm
