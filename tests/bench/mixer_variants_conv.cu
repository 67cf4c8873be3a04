// Ways of running the causal convolution: see mixer_variants.h.
#include "autograd/ops/conv1d_backward.cuh"
#include "autograd/ops/conv1d_forward.cuh"
#include "tests/bench/mixer_variants.h"

namespace matvlm {

using namespace conv1d_kernels;

std::vector<MixerVariant<Conv1dArgs<bf16, float>>> conv_forward_variants() {
  return {{"4 channels, 1 stage, 12 blocks", launch_forward<bf16, 4, ForwardPlan<4, 1, 12, 0>>},
          {"4 channels, 2 stages, 12 blocks", launch_forward<bf16, 4, ForwardPlan<4, 2, 12, 0>>},
          {"4 channels, 3 stages, 12 blocks", launch_forward<bf16, 4, ForwardPlan<4, 3, 12, 0>>},
          {"4 channels, 3 stages, 16 blocks", launch_forward<bf16, 4, ForwardPlan<4, 3, 16, 0>>},
          {"8 channels, 2 stages, 8 blocks", launch_forward<bf16, 4, ForwardPlan<8, 2, 8, 0>>},
          {"8 channels, 3 stages, 8 blocks", launch_forward<bf16, 4, ForwardPlan<8, 3, 8, 0>>}};
}

std::vector<MixerVariant<Conv1dArgs<bf16, float>>> conv_backward_variants() {
  return {{"4 channels, 2 warps, 2 stages, 8", launch_backward<bf16, 4, BackwardPlan<4, 2, 2, 8, 0>>},
          {"4 channels, 2 warps, 3 stages, 8", launch_backward<bf16, 4, BackwardPlan<4, 2, 3, 8, 0>>},
          {"4 channels, 4 warps, 2 stages, 4", launch_backward<bf16, 4, BackwardPlan<4, 4, 2, 4, 0>>},
          {"8 channels, 2 warps, 2 stages, 4", launch_backward<bf16, 4, BackwardPlan<8, 2, 2, 4, 0>>},
          {"8 channels, 2 warps, 3 stages, 4", launch_backward<bf16, 4, BackwardPlan<8, 2, 3, 4, 0>>}};
}

}  // namespace matvlm
