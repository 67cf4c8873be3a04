// A communicator of device memory behind the interface of one of host memory: every call copies its values to the
// device, runs there, and copies the result back. For tests that know host memory only.
#pragma once

#include <memory>

#include "core/comm.h"
#include "core/context.h"

namespace matvlm::testing {

// `device` works on the memory of `ctx`; both outlive the result. Buffers of a call that overlap do so on the device as
// well, so in-place calls stay such.
std::unique_ptr<Comm> make_staged_comm(Context& ctx, Comm& device);

}  // namespace matvlm::testing
