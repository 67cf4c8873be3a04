// The mma.sync attention kernels for heads of up to 64. One file per few widths: they compile side by side.
#include "autograd/ops/attention_mma_backward.cuh"
#include "autograd/ops/attention_mma_forward.cuh"

namespace matvlm::attention_kernels {

template void forward_mma<32>(Context&, const Bf16Forward&);
template void forward_mma<64>(Context&, const Bf16Forward&);
template void backward_mma<32>(Context&, const Bf16Backward&);
template void backward_mma<64>(Context&, const Bf16Backward&);

}  // namespace matvlm::attention_kernels
