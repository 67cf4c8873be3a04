// The build without NCCL.
#include "core/comm.h"
#include "core/error.h"

namespace matvlm {

bool have_nccl() { return false; }

std::unique_ptr<Comm> make_nccl_comm(Comm&, int) {
  fail("[nccl] this build has no NCCL: install it together with the CUDA toolkit and build again, or run one rank");
}

}  // namespace matvlm
