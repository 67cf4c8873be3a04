// The sm_90a kernels of the gradients of k and v for heads of 80 (and 72) and 96.
#include "autograd/ops/attention_hopper_dkv.cuh"

namespace matvlm::attention_kernels {

template void dkv_hopper<80>(Context&, const Bf16Backward&);
template void dkv_hopper<96>(Context&, const Bf16Backward&);

}  // namespace matvlm::attention_kernels
