// The sm_90a forward kernels; heads of 72 take those of 80.
#include "autograd/ops/attention_hopper_forward.cuh"

namespace matvlm::attention_kernels {

template void forward_hopper<64>(Context&, const Bf16Forward&);
template void forward_hopper<80>(Context&, const Bf16Forward&);
template void forward_hopper<96>(Context&, const Bf16Forward&);
template void forward_hopper<128>(Context&, const Bf16Forward&);

bool hopper_compiled(Context& ctx) {
  const void* kernel = reinterpret_cast<const void*>(&hopper_forward_kernel<ForwardChoice<64>>);
  return ctx.cuda()->kernel_registers(kernel) > 64;  // an empty kernel needs a handful
}

}  // namespace matvlm::attention_kernels
