// Tile shapes of the sm_90a attention kernels beside the chosen ones, for bench_attention.
#pragma once

#include <vector>

#include "autograd/ops/attention_device.h"

namespace matvlm {

template <class Args>
struct AttentionVariant {
  const char* name;
  int64_t width;  // P rounded up: 64, 80, 128
  void (*launch)(Context&, const Args&);
};

// Groups of 64 queries, keys of a tile, stages of the rings, columns of a block of a tile, turns or none.
std::vector<AttentionVariant<attention_kernels::Bf16Forward>> forward_variants();
// Groups of 64 queries, keys of a tile, stages, places for the queries.
std::vector<AttentionVariant<attention_kernels::Bf16Backward>> dq_variants();
// Groups of 64 keys, queries of a tile, stages, places for the keys.
std::vector<AttentionVariant<attention_kernels::Bf16Backward>> dkv_variants();

}  // namespace matvlm
