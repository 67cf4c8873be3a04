// How many tokens a block of a bandwidth-bound kernel takes: as many as let the blocks fill the multiprocessors in
// whole waves, so that none of them idles while a last, part-filled wave runs.
#pragma once

#include <cstdint>

namespace matvlm {

// A kernel's work as tiles of tokens by columns of channels, one block for each pair of them.
struct TileShape {
  int64_t tokens = 0;       // of all tiles
  int64_t columns = 1;      // blocks side by side
  int64_t walks = 1;        // of a block, each over a part of the tile's tokens
  int64_t granule = 1;      // the tokens of a walk are a multiple of this
  int64_t least = 16;       // tokens of a walk
  int64_t most = 128;       // tokens of a walk
  int64_t start_cost = 10;  // what a walk costs before its first token, in tokens
};

// Tokens of a walk with which `resident` blocks at a time take the fewest steps. Depends on the shape and on the kind
// of device alone.
inline int64_t balanced_walk(const TileShape& s, int64_t resident) {
  int64_t best = s.least;
  int64_t best_cost = INT64_MAX;
  for (int64_t walk = s.least; walk <= s.most; walk += s.granule) {
    const int64_t tile = walk * s.walks;
    const int64_t blocks = (s.tokens + tile - 1) / tile * s.columns;
    const int64_t cost = (blocks + resident - 1) / resident * (walk + s.start_cost);
    if (cost < best_cost) {
      best = walk;
      best_cost = cost;
    }
  }
  return best;
}

}  // namespace matvlm
