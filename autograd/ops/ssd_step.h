// Decode step of the SSD: one or a few tokens for each of many sequences, from and to carried states.
#pragma once

#include "autograd/ops/ssd.h"

namespace matvlm {

// Sequences with carried states up to this length are better off with ssd_step_cuda than with a kernel that works on
// chunks of tokens.
constexpr int64_t kSsdStepTokens = 16;

// The forward op of ssd.h, token after token, for P and N up to kSsdMaxCudaWidth and sequences of any length. Reads
// each state once and writes it once (and once more for every row of `every`); initial and final_state may be one
// buffer. A call over k tokens gives the same bits as k calls over one. Takes no scratch. Error on wider P or N.
template <class E>
void ssd_step_cuda(Context& ctx, const SsdArgs<E, float>& args);

}  // namespace matvlm
