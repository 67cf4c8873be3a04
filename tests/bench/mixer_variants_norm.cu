// Ways of running the gated RMSNorm: see mixer_variants.h.
#include "autograd/ops/gated_rms_norm_quads.cuh"
#include "tests/bench/mixer_variants.h"

namespace matvlm {

using namespace gated_rms_norm_quads;

std::vector<MixerVariant<GatedRmsNormArgs<bf16, float>>> norm_forward_variants() {
  return {{"8 warps, 3 tokens, 2 blocks", launch_forward<80, Plan<8, 3, 2>>},
          {"8 warps, 4 tokens, 2 blocks", launch_forward<80, Plan<8, 4, 2>>},
          {"8 warps, 3 tokens, 3 blocks", launch_forward<80, Plan<8, 3, 3>>},
          {"4 warps, 4 tokens, 5 blocks", launch_forward<80, Plan<4, 4, 5>>}};
}

std::vector<MixerVariant<GatedRmsNormArgs<bf16, float>>> norm_backward_variants() {
  return {{"8 warps, 3 tokens, 2 blocks", launch_backward<80, Plan<8, 3, 2>>},
          {"8 warps, 2 tokens, 2 blocks", launch_backward<80, Plan<8, 2, 2>>},
          {"6 warps, 4 tokens, 2 blocks", launch_backward<80, Plan<6, 4, 2>>},
          {"4 warps, 4 tokens, 3 blocks", launch_backward<80, Plan<4, 4, 3>>}};
}

}  // namespace matvlm
