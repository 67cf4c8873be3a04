// AdamW over the arenas: parameter by parameter on the CPU, one launch on the GPU.
#include "autograd/ops/adamw.h"

#include <cmath>
#include <vector>

#include "autograd/ops/adamw_cpu.h"
#include "autograd/ops/adamw_device.h"
#include "autograd/ops/reduce.h"
#include "core/dispatch.h"

namespace matvlm {
namespace {

void update_cpu(const ParameterStore& parameters, const AdamWStep& step) {
  const AdamWFactors<float> factors = adamw_factors<float>(step);
  for (const auto& p : parameters.parameters()) {
    bf16* compute = p->value.dtype() == DType::bf16 ? p->value.data<bf16>() : nullptr;
    adamw_cpu(p->numel, factors, p->decay, p->master.data<float>(), p->grad.data<float>(), p->moment1.data<float>(),
              p->moment2.data<float>(), compute);
  }
}

void update_gpu(Context& ctx, const ParameterStore& parameters, const AdamWStep& step) {
  // Neighbours of one kind share a segment; the padding between them does not care.
  std::vector<int64_t> begin;
  std::vector<int32_t> decay;
  for (const auto& p : parameters.parameters()) {
    const int32_t kind = p->decay ? 1 : 0;
    if (!decay.empty() && decay.back() == kind) continue;
    begin.push_back(p->offset);
    decay.push_back(kind);
  }
  const auto segments = static_cast<int64_t>(begin.size());
  const Tensor device_begin = Tensor::from(ctx, begin, {segments});
  const Tensor device_decay = Tensor::from(ctx, decay, {segments});
  const Tensor& compute = parameters.compute();
  adamw_cuda(ctx,
             {.n = parameters.master().numel(),
              .master = parameters.master().data<float>(),
              .grad = parameters.grad().data<float>(),
              .moment1 = parameters.moment1().data<float>(),
              .moment2 = parameters.moment2().data<float>(),
              .compute = compute.defined() ? compute.data<bf16>() : nullptr,
              .segments = segments,
              .begin = device_begin.data<int64_t>(),
              .decay = device_decay.data<int32_t>()},
             step);
}

}  // namespace

void adamw(Context& ctx, const ParameterStore& parameters, const AdamWStep& step) {
  check(std::isfinite(step.grad_scale) && std::isfinite(step.lr), "[adamw] gradient factor ", step.grad_scale,
        ", learning rate ", step.lr, ", expected finite numbers");
  check(step.bias_correction1 > 0 && step.bias_correction2 > 0, "[adamw] bias corrections ", step.bias_correction1,
        ", ", step.bias_correction2, ", expected positive numbers (the first step is number 1)");
  if (parameters.empty()) return;
  dispatch_device(
      ctx, [&] { update_gpu(ctx, parameters, step); }, [&] { update_cpu(parameters, step); });
  parameters.refresh_float32(ctx);
}

double grad_norm(Context& ctx, const ParameterStore& parameters) {
  return std::sqrt(grad_squares(ctx, parameters).to_vector<double>(ctx)[0]);
}

Tensor grad_squares(Context& ctx, const ParameterStore& parameters) {
  return parameters.empty() ? Tensor::zeros(ctx, {1}, DType::f64) : queue_sum_squares(ctx, parameters.grad());
}

}  // namespace matvlm
