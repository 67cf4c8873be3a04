// The sm_90a forward kernels for heads of 80 (and 72) and 96.
#include "autograd/ops/attention_hopper_forward.cuh"

namespace matvlm::attention_kernels {

template void forward_hopper<80>(Context&, const Bf16Forward&);
template void forward_hopper<96>(Context&, const Bf16Forward&);

}  // namespace matvlm::attention_kernels
