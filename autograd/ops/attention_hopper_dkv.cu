// The sm_90a kernels of the gradients of k and v; heads of 72 take those of 80.
#include "autograd/ops/attention_hopper_dkv.cuh"

namespace matvlm::attention_kernels {

template void dkv_hopper<64>(Context&, const Bf16Backward&);
template void dkv_hopper<80>(Context&, const Bf16Backward&);
template void dkv_hopper<96>(Context&, const Bf16Backward&);
template void dkv_hopper<128>(Context&, const Bf16Backward&);

}  // namespace matvlm::attention_kernels
