// Tile shapes of the sm_90a attention kernels to compare, gradients of k and v: see attention_variants.h.
#include "autograd/ops/attention_hopper_dkv.cuh"
#include "tests/bench/attention_variants.h"

namespace matvlm {

using namespace attention_kernels;

std::vector<AttentionVariant<Bf16Backward>> dkv_variants() {
  return {
      {"2 x 64, 3 stages, 2 own", 64, dkv_tiles<DkvTiles<64, 2, 64, 3, 2>>},
      {"2 x 80, 3 stages, 2 own", 64, dkv_tiles<DkvTiles<64, 2, 80, 3, 2>>},
      {"3 x 32, 3 stages, 2 own", 64, dkv_tiles<DkvTiles<64, 3, 32, 3, 2>>},
      {"2 x 64, 3 stages, 2 own", 80, dkv_tiles<DkvTiles<80, 2, 64, 3, 2>>},
      {"2 x 48, 3 stages, 2 own", 80, dkv_tiles<DkvTiles<80, 2, 48, 3, 2>>},
      {"2 x 32, 3 stages, 2 own", 128, dkv_tiles<DkvTiles<128, 2, 32, 3, 2>>},
      {"2 x 48, 3 stages, 2 own", 128, dkv_tiles<DkvTiles<128, 2, 48, 3, 2>>},
      {"2 x 48, 3 stages, 1 own", 128, dkv_tiles<DkvTiles<128, 2, 48, 3, 1>>},
  };
}

}  // namespace matvlm
