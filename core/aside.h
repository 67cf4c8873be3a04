// Work beside a context's own: while an Aside lives, what is issued on the context goes to a second queue of the
// device, of lower priority, and runs where the first leaves room. On the CPU, where work is done when its call
// returns, and on a context without a second queue it is issued as ever.
//
// The second queue may read what the first does not write until join_aside(), and write what the first does not touch
// until then. What is allocated aside comes from a pool of its own and so never has the address of something that the
// first queue has just freed, and what aside work reads of the first queue's memory has to live until the device, or
// the first queue, is known to be behind it. Elementwise work and reductions only: the libraries' workspace and the
// work counters belong to the first queue. Not while work is recorded.
#pragma once

#include "core/allocator.h"
#include "core/context.h"

namespace matvlm {

class Aside {
 public:
  // Behind what: everything issued on the context so far, or only what was issued aside before.
  enum class Behind { all, aside };
  Aside(Context& ctx, Behind behind)
      : ctx_(ctx), before_((ctx.begin_aside(behind == Behind::all), ctx.allocator()->use(Allocator::kAside))) {}
  ~Aside() {
    ctx_.allocator()->use(before_);
    ctx_.end_aside();
  }
  Aside(const Aside&) = delete;
  Aside& operator=(const Aside&) = delete;

 private:
  Context& ctx_;
  Allocator::Pool before_;
};

}  // namespace matvlm
