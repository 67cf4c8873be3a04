// The sm_90a forward kernels for heads of 64 and 128: blocks of 64 columns. One file per few widths: they compile side
// by side.
#include "autograd/ops/attention_hopper_forward.cuh"

namespace matvlm::attention_kernels {

template void forward_hopper<64>(Context&, const Bf16Forward&);
template void forward_hopper<128>(Context&, const Bf16Forward&);

bool hopper_compiled(Context& ctx) {
  const void* kernel = reinterpret_cast<const void*>(&hopper_forward_kernel<ForwardChoice<64>>);
  return ctx.cuda()->kernel_registers(kernel) > 64;  // an empty kernel needs a handful
}

}  // namespace matvlm::attention_kernels
