// The mma.sync attention kernels for heads of more than 64.
#include "autograd/ops/attention_mma_backward.cuh"
#include "autograd/ops/attention_mma_forward.cuh"

namespace matvlm::attention_kernels {

template void forward_mma<80>(Context&, const Bf16Forward&);
template void forward_mma<96>(Context&, const Bf16Forward&);
template void forward_mma<128>(Context&, const Bf16Forward&);
template void backward_mma<80>(Context&, const Bf16Backward&);
template void backward_mma<96>(Context&, const Bf16Backward&);
template void backward_mma<128>(Context&, const Bf16Backward&);

}  // namespace matvlm::attention_kernels
