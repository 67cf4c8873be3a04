// Where a raw op goes to its implementation: the one place that knows that a context may only count memory.
#pragma once

#include <utility>

#include "core/context.h"

namespace matvlm {

// Calls cuda() on a GPU, cpu() on the CPU, and neither on a context that only counts memory: there, values have shapes
// and addresses but no storage. What a raw op allocates as scratch it allocates outside, so that it is counted.
template <class Cuda, class Cpu>
void dispatch_device(const Context& ctx, Cuda&& cuda, Cpu&& cpu) {
  if (!ctx.computes()) return;
  if (ctx.on_gpu()) return std::forward<Cuda>(cuda)();
  std::forward<Cpu>(cpu)();
}

}  // namespace matvlm
