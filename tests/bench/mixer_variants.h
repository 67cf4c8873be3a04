// Ways of running the mixer's memory-bound kernels beside the chosen ones, for bench_mixer_ops.
#pragma once

#include <vector>

#include "autograd/ops/conv1d.h"
#include "autograd/ops/gated_rms_norm.h"
#include "autograd/ops/rotary.h"
#include "core/dtype.h"

namespace matvlm {

template <class Args>
struct MixerVariant {
  const char* name;
  void (*launch)(Context&, const Args&);
};

// Warps of a block, tokens in a warp's ring, blocks of a multiprocessor. P = 80.
std::vector<MixerVariant<GatedRmsNormArgs<bf16, float>>> norm_forward_variants();
std::vector<MixerVariant<GatedRmsNormArgs<bf16, float>>> norm_backward_variants();

// Channels of a thread, stages of the feed, blocks of a multiprocessor; backward also warps of a block. 4 taps.
std::vector<MixerVariant<Conv1dArgs<bf16, float>>> conv_forward_variants();
std::vector<MixerVariant<Conv1dArgs<bf16, float>>> conv_backward_variants();

// Rows of threads, tokens of a thread.
std::vector<MixerVariant<RotaryArgs<bf16>>> rotary_variants();

}  // namespace matvlm
