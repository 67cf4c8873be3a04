// The sm_90a kernels of the gradient of q; heads of 72 take those of 80.
#include "autograd/ops/attention_hopper_dq.cuh"

namespace matvlm::attention_kernels {

template void dq_hopper<64>(Context&, const Bf16Backward&);
template void dq_hopper<80>(Context&, const Bf16Backward&);
template void dq_hopper<96>(Context&, const Bf16Backward&);
template void dq_hopper<128>(Context&, const Bf16Backward&);

}  // namespace matvlm::attention_kernels
