// One of several ways in which a GPU op can run, which give the same result: what a benchmark chooses from.
#pragma once

#include "core/context.h"

namespace matvlm {

template <class Args>
struct OpVariant {
  const char* name;
  void (*run)(Context& ctx, const Args& args);
};

}  // namespace matvlm
