// Tensor maps: what the bulk tensor copy engine of sm_90 and later knows of a matrix in device memory. For CUDA
// sources.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace matvlm {

// bf16 columns of heads in a row-major matrix: element (column, head, row) lies at data + row * row_stride + head *
// columns + column. A copy brings a box of box_columns x 1 x box_rows; Where box_columns is 16, 32 or 64 the
// pieces of a row arrive permuted by the swizzle of that width (32, 64, 128 bytes); rows of any other width (a multiple
// of 8) arrive one after the other as they are. Outside the tensor (columns of the next head too) zeros arrive. Error
// unless data is aligned to 16 bytes and row_stride and columns are multiples of 8.
//
// `map`: memory of a CUtensorMap, of any alignment. The type asks for 64 bytes, but GCC does not align every temporary
// to more than the stack is, and code for a processor's own wide registers crashes on one that is not.
void encode_head_map(void* map, const void* data, int64_t columns, int64_t heads, int64_t rows, int64_t row_stride,
                     int box_columns, int box_rows);

inline CUtensorMap head_map(const void* data, int64_t columns, int64_t heads, int64_t rows, int64_t row_stride,
                            int box_columns, int box_rows) {
  CUtensorMap map;
  encode_head_map(&map, data, columns, heads, rows, row_stride, box_columns, box_rows);
  return map;
}

}  // namespace matvlm
