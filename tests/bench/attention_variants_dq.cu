// Tile shapes of the sm_90a attention kernels to compare, gradient of q: see attention_variants.h.
#include "autograd/ops/attention_hopper_dq.cuh"
#include "tests/bench/attention_variants.h"

namespace matvlm {

using namespace attention_kernels;

std::vector<AttentionVariant<Bf16Backward>> dq_variants() {
  return {
      {"2 x 128, 3 stages, 2 own", 64, dq_tiles<DqTiles<64, 2, 128, 3, 2>>},
      {"2 x 96, 3 stages, 2 own", 64, dq_tiles<DqTiles<64, 2, 96, 3, 2>>},
      {"3 x 80, 3 stages, 2 own", 64, dq_tiles<DqTiles<64, 3, 80, 3, 2>>},
      {"3 x 64, 3 stages, 2 own", 64, dq_tiles<DqTiles<64, 3, 64, 3, 2>>},
      {"2 x 112, 3 stages, 2 own", 80, dq_tiles<DqTiles<80, 2, 112, 3, 2>>},
      {"2 x 96, 3 stages, 2 own", 80, dq_tiles<DqTiles<80, 2, 96, 3, 2>>},
      {"2 x 128, 3 stages, 1 own", 80, dq_tiles<DqTiles<80, 2, 128, 3, 1>>},
      {"3 x 64, 3 stages, 2 own", 80, dq_tiles<DqTiles<80, 3, 64, 3, 2>>},
      {"2 x 64, 3 stages, 2 own", 128, dq_tiles<DqTiles<128, 2, 64, 3, 2>>},
      {"2 x 96, 3 stages, 1 own", 128, dq_tiles<DqTiles<128, 2, 96, 3, 1>>},
      {"2 x 96, 2 stages, 2 own", 128, dq_tiles<DqTiles<128, 2, 96, 2, 2>>},
      {"2 x 112, 2 stages, 1 own", 128, dq_tiles<DqTiles<128, 2, 112, 2, 1>>},
  };
}

}  // namespace matvlm
