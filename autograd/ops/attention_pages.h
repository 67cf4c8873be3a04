// Keys and values that lie in pages: blocks of rows anywhere in memory, found through a table. Attention over them has
// the arguments of attention.h with k and v null, k_begin of zeros, k_end the number of keys and the row width as
// strides; key j of sequence b is row j % rows of page table[b * width + j / rows].
#pragma once

#include <cstdint>

#include "autograd/ops/attention.h"

namespace matvlm {

struct AttentionPages {
  const int64_t* table = nullptr;  // [B, width] addresses of the pages, on the device of the tensors
  int64_t width = 0;               // pages of the longest sequence
  int64_t rows = 0;                // of a page
  int64_t k_offset = 0;            // elements from the start of a page to its first key row
  int64_t v_offset = 0;            // and to its first value row
};

// First element of a row of keys (k_offset) or values (v_offset) of sequence b.
template <class T>
const T* page_row(const AttentionPages& pages, int64_t offset, int64_t stride, int64_t b, int64_t row) {
  const int64_t page = pages.table[b * pages.width + row / pages.rows];
  return reinterpret_cast<const T*>(page) + offset + row % pages.rows * stride;
}

// Can decode_paged_cuda do it? bf16 on tensor cores, at most 16 queries a sequence, pages of a multiple of 16 rows (or
// one page only).
bool decode_paged_fits(Context& ctx, const AttentionShape& shape, DType dtype, int64_t longest_q,
                       const AttentionPages& pages);
void decode_paged_cuda(Context& ctx, const AttentionForwardArgs<bf16, float>& args, const AttentionPages& pages);

// rows [T, width] -> the rows at `targets` [T], addresses of page rows, each `offset` elements on.
template <class T>
struct PageWrite {
  const int64_t* targets = nullptr;
  int64_t tokens = 0;
  int64_t width = 0;
  const T* k = nullptr;
  const T* v = nullptr;
  int64_t k_stride = 0;
  int64_t v_stride = 0;
  int64_t k_offset = 0;
  int64_t v_offset = 0;
};
template <class T>
void write_pages_cuda(Context& ctx, const PageWrite<T>& args);

// Keys and values of all sequences into the rows [k_begin[b], k_end[b]) of k and v, `width` columns, contiguous.
template <class T>
void gather_pages_cuda(Context& ctx, const AttentionPages& pages, const AttentionRanges& ranges, int64_t width, T* k,
                       T* v);

}  // namespace matvlm
