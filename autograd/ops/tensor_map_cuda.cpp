// Tensor maps by the driver's encoder, which is looked up at run time: the program does not link the driver.
#include "autograd/ops/tensor_map.cuh"

#include <cudaTypedefs.h>

#include <cstring>

#include "core/cuda_context.h"

namespace matvlm {
namespace {

PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
  MATVLM_CUDA_CHECK(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &result));
#else
  MATVLM_CUDA_CHECK(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &result));
#endif
  check(result == cudaDriverEntryPointSuccess && entry != nullptr,
        "[cuda] the driver has no cuTensorMapEncodeTiled, expected CUDA 12.0 or later");
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry);
}

}  // namespace

void encode_head_map(void* out, const void* data, int64_t columns, int64_t heads, int64_t rows, int64_t row_stride,
                     int box_columns, int box_rows) {
  static const PFN_cuTensorMapEncodeTiled_v12000 encode = encoder();
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(heads),
                               static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(columns * 2), static_cast<cuuint64_t>(row_stride * 2)};
  const cuuint32_t box[3] = {static_cast<cuuint32_t>(box_columns), 1, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[3] = {1, 1, 1};
  const CUtensorMapSwizzle swizzle = box_columns == 64   ? CU_TENSOR_MAP_SWIZZLE_128B
                                     : box_columns == 32 ? CU_TENSOR_MAP_SWIZZLE_64B
                                     : box_columns == 16 ? CU_TENSOR_MAP_SWIZZLE_32B
                                                         : CU_TENSOR_MAP_SWIZZLE_NONE;
  CUtensorMap map{};
  const CUresult status = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(data), sizes, strides,
                                 box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                 CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check(status == CUDA_SUCCESS, "[cuda] tensor map of ", rows, " rows of ", heads, " heads of ", columns, " at stride ",
        row_stride, ": error ", static_cast<int>(status));
  std::memcpy(out, &map, sizeof map);
}

}  // namespace matvlm
