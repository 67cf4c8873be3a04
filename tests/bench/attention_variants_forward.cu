// Tile shapes of the sm_90a attention kernels to compare, forward: see attention_variants.h.
#include "autograd/ops/attention_hopper_forward.cuh"
#include "tests/bench/attention_variants.h"

namespace matvlm {

using namespace attention_kernels;

std::vector<AttentionVariant<Bf16Forward>> forward_variants() {
  return {
      {"2 x 128, 3 stages, blocks of 64, turns", 64, forward_tiles<ForwardTiles<64, 2, 128, 3, 64, true>>},
      {"3 x 128, 3 stages, blocks of 64, turns", 64, forward_tiles<ForwardTiles<64, 3, 128, 3, 64, true>>},
      {"3 x 128, 3 stages, blocks of 64, no turns", 64, forward_tiles<ForwardTiles<64, 3, 128, 3, 64, false>>},
      {"3 x 112, 3 stages, blocks of 64, turns", 64, forward_tiles<ForwardTiles<64, 3, 112, 3, 64, true>>},
      {"3 x 96, 3 stages, blocks of 64, turns", 64, forward_tiles<ForwardTiles<64, 3, 96, 3, 64, true>>},
      {"3 x 96, 3 stages, blocks of 64, no turns", 64, forward_tiles<ForwardTiles<64, 3, 96, 3, 64, false>>},
      {"2 x 128, 3 stages, blocks of 64, turns", 80, forward_tiles<ForwardTiles<80, 2, 128, 3, 64, true>>},
      {"2 x 128, 3 stages, blocks of 16, turns", 80, forward_tiles<ForwardTiles<80, 2, 128, 3, 16, true>>},
      {"3 x 112, 3 stages, blocks of 64, turns", 80, forward_tiles<ForwardTiles<80, 3, 112, 3, 64, true>>},
      {"3 x 112, 3 stages, blocks of 64, no turns", 80, forward_tiles<ForwardTiles<80, 3, 112, 3, 64, false>>},
      {"3 x 112, 3 stages, blocks of 16, turns", 80, forward_tiles<ForwardTiles<80, 3, 112, 3, 16, true>>},
      {"3 x 96, 3 stages, blocks of 64, turns", 80, forward_tiles<ForwardTiles<80, 3, 96, 3, 64, true>>},
      {"3 x 96, 3 stages, blocks of 64, no turns", 80, forward_tiles<ForwardTiles<80, 3, 96, 3, 64, false>>},
      {"2 x 128, 3 stages, blocks of 64, no turns", 80, forward_tiles<ForwardTiles<80, 2, 128, 3, 64, false>>},
      {"2 x 128, 2 stages, blocks of 64, turns", 128, forward_tiles<ForwardTiles<128, 2, 128, 2, 64, true>>},
      {"2 x 128, 3 stages, blocks of 64, turns", 128, forward_tiles<ForwardTiles<128, 2, 128, 3, 64, true>>},
      {"2 x 112, 3 stages, blocks of 64, turns", 128, forward_tiles<ForwardTiles<128, 2, 112, 3, 64, true>>},
      {"2 x 96, 3 stages, blocks of 64, turns", 128, forward_tiles<ForwardTiles<128, 2, 96, 3, 64, true>>},
  };
}

}  // namespace matvlm
