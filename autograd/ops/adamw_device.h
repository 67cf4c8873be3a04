// GPU launcher of adamw.h (adamw.cu); adamw_no_cuda.cpp throws.
#pragma once

#include <cstdint>

#include "autograd/ops/adamw.h"

namespace matvlm {

// The arenas, n elements (a multiple of 4). Segment i is [begin[i], begin[i + 1]) with decay[i], begin[0] = 0, the last
// one open; begins are multiples of 4.
struct AdamWArenas {
  int64_t n = 0;
  float* master = nullptr;
  const float* grad = nullptr;
  float* moment1 = nullptr;
  float* moment2 = nullptr;
  bf16* compute = nullptr;  // or nullptr
  int64_t segments = 0;
  const int64_t* begin = nullptr;  // [segments], on the device
  const int32_t* decay = nullptr;  // [segments], on the device
};
void adamw_cuda(Context& ctx, const AdamWArenas& arenas, const AdamWStep& step);

}  // namespace matvlm
