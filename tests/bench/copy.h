// The mark for kernels that are bound by memory: what copying from device memory to device memory reaches.
#pragma once

#include <vector>

#include "core/context.h"

namespace matvlm::bench {

struct CopyResult {
  const char* name;
  double gb_s;  // read and written
};

// 1 GiB to another GiB, by the driver's copy and by copy kernels that differ in the loads a thread has under way, in
// the cache hint and in the size of the grid. The best one comes first.
std::vector<CopyResult> copy_bandwidths(Context& ctx);

// The best of them.
double copy_bandwidth(Context& ctx);

}  // namespace matvlm::bench
