// Recurrent state that decoding carries from one call of an op to the next: what the causal convolution and the SSD
// read before the first token of a sequence and write after the last one (or after every one).
#pragma once

#include "core/tensor.h"

namespace matvlm {

// A row of state is [W-1, C] in compute dtype for the convolution (its last inputs, oldest first) and float32 [H, P, N]
// for the SSD. Sequence b of the call uses row slots[b] of `initial` and `final`. Every tensor is contiguous.
// Only for graphs that do not record: the ops refuse a StateIo otherwise (no gradient goes through a carried state).
struct StateIo {
  Tensor initial;  // [S, ...] before the first token of each sequence; undefined = zeros
  Tensor final;    // [S, ...] after the last one; undefined = not wanted; may be the same buffer as `initial`
  Tensor every;    // [T, ...] after each token; undefined = not wanted. A decode step over several tokens can be taken
                   // back to any of them by copying one row
  Tensor slots;    // i64 [B], distinct rows in [0, S); undefined = row b (then S >= B). Checked on the CPU only
};

// Error naming the op unless the state fits: rows of shape `row` and this dtype, `tokens` rows in `every`, a row for
// each of `batch` sequences, contiguous, on this device, and the graph does not record. On the CPU slots are
// range-checked.
void check_state(const char* op, const StateIo& state, bool recording, const Shape& row, DType dtype, int64_t tokens,
                 int64_t batch, const Device& device);

}  // namespace matvlm
