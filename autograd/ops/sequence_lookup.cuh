// Device helper of ops over packed rows.
#pragma once

#include <cstdint>

namespace matvlm {

// Sequence that holds token t: the last b with cu[b] <= t, which skips empty sequences. cu has batch + 1 entries.
__device__ inline int64_t sequence_of(const int64_t* cu, int64_t batch, int64_t t) {
  int64_t low = 0;
  int64_t high = batch;  // cu[low] <= t < cu[high]
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (cu[middle] <= t) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// The same for a whole warp that asks for one token; batch >= 1. Of few sequences it costs one access to memory, not a
// chain of them.
__device__ inline int64_t warp_sequence_of(const int64_t* cu, int64_t batch, int64_t t, int lane) {
  if (batch > 32) return sequence_of(cu, batch, t);
  const bool begun = lane < batch && cu[lane] <= t;
  return __popc(__ballot_sync(0xffffffffU, begun)) - 1;  // cu[0] is 0
}

}  // namespace matvlm
