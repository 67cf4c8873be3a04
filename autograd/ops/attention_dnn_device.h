// The small tables that cuDNN reads for packed rows; attention_dnn.cu.
#pragma once

#include <cstdint>

#include "core/context.h"

namespace matvlm {

constexpr int kMaxDnnStrides = 8;

// From cu [batch + 1]: lengths [batch] of the sequences, and for each of `count` row strides the first element of every
// sequence and the end of the last, offsets [count, batch + 1].
struct DnnTables {
  const int64_t* cu = nullptr;
  int64_t batch = 0;
  int count = 0;
  int64_t strides[kMaxDnnStrides] = {};
  int32_t* lengths = nullptr;
  int32_t* offsets = nullptr;
  int64_t pitch = 0;  // elements from the offsets of one stride to those of the next
};
void fill_dnn_tables(Context& ctx, const DnnTables& tables);

}  // namespace matvlm
