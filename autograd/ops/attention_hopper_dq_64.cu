// The sm_90a kernels of the gradient of q for heads of 64 and 128: blocks of 64 columns.
#include "autograd/ops/attention_hopper_dq.cuh"

namespace matvlm::attention_kernels {

template void dq_hopper<64>(Context&, const Bf16Backward&);
template void dq_hopper<128>(Context&, const Bf16Backward&);

}  // namespace matvlm::attention_kernels
