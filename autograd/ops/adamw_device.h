// GPU launcher of adamw.h (adamw.cu); adamw_no_cuda.cpp throws.
#pragma once

#include <cstdint>

#include "autograd/ops/adamw.h"

namespace matvlm {

// A stretch of the arenas, from element `begin` (a multiple of 8) to where the next one begins.
struct AdamWSegment {
  int64_t begin;
  int64_t decay;    // 0 or 1
  int64_t float32;  // where its copy begins in AdamWArenas::float32; -1: it has none
};

// The arenas, n elements (a multiple of 8). Masters are whole, or split (Float32View) beside their compute copies.
struct AdamWArenas {
  int64_t n = 0;
  float* master = nullptr;  // nullptr where split
  const float* grad = nullptr;
  float* moment1 = nullptr;
  float* moment2 = nullptr;
  bf16* compute = nullptr;                 // or nullptr
  uint16_t* low = nullptr;                 // of split masters
  uint8_t* up = nullptr;                   // of split masters, [n / 8]
  float* float32 = nullptr;                // or nullptr
  int64_t segment_count = 0;               // at least 1, the first one from element 0 on
  const AdamWSegment* segments = nullptr;  // on the device
};
void adamw_cuda(Context& ctx, const AdamWArenas& arenas, const AdamWStep& step);

}  // namespace matvlm
