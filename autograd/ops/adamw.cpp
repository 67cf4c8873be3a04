// AdamW over the arenas: parameter by parameter on the CPU, one launch on the GPU.
#include "autograd/ops/adamw.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "autograd/ops/adamw_cpu.h"
#include "autograd/ops/adamw_device.h"
#include "autograd/ops/reduce.h"
#include "core/dispatch.h"

namespace matvlm {
namespace {

// Split masters are put together a piece at a time.
void update_split_cpu(const Parameter& p, const AdamWFactors<float>& factors) {
  constexpr int64_t kPiece = 1 << 16;
  static_assert(kPiece % Float32View::kUpBits == 0);
  std::vector<float> values(static_cast<size_t>(std::min(kPiece, p.numel)));
  for (int64_t begin = 0; begin < p.numel; begin += kPiece) {
    const int64_t n = std::min(kPiece, p.numel - begin);
    const std::span<float> piece = std::span<float>(values).first(static_cast<size_t>(n));
    p.master.read_cpu(begin, piece);
    adamw_cpu<float>(n, factors, p.decay, piece.data(), p.grad.data<float>() + begin, p.moment1.data<float>() + begin,
                     p.moment2.data<float>() + begin, nullptr);
    p.master.write_cpu(begin, piece);
    if (p.value.dtype() == DType::f32) std::copy(piece.begin(), piece.end(), p.value.data<float>() + begin);
  }
}

void update_whole_cpu(const Parameter& p, const AdamWFactors<float>& factors) {
  auto* master = p.master.whole().data<float>();
  bf16* compute = p.value.dtype() == DType::bf16 ? p.value.data<bf16>() : nullptr;
  adamw_cpu(p.numel, factors, p.decay, master, p.grad.data<float>(), p.moment1.data<float>(), p.moment2.data<float>(),
            compute);
  if (compute == nullptr && p.value.raw() != master) std::copy(master, master + p.numel, p.value.data<float>());
}

void update_cpu(const ParameterStore& parameters, const AdamWStep& step) {
  const AdamWFactors<float> factors = adamw_factors<float>(step);
  for (const auto& p : parameters.parameters()) {
    if (p->master.split()) {
      update_split_cpu(*p, factors);
    } else {
      update_whole_cpu(*p, factors);
    }
  }
}

// Neighbours of one kind share a segment; the padding between them does not care. A parameter that is copied in float32
// has one of its own, which ends with its padding.
std::vector<AdamWSegment> segments_of(const ParameterStore& parameters) {
  std::vector<AdamWSegment> out;
  for (const auto& p : parameters.parameters()) {
    const AdamWSegment segment = {p->offset, p->decay ? 1 : 0, parameters.float32_offset(*p)};
    const bool joins = !out.empty() && segment.float32 < 0 && out.back().float32 < 0;
    if (!joins || out.back().decay != segment.decay) out.push_back(segment);
  }
  const Parameter& last = *parameters.parameters().back();
  if (out.back().float32 >= 0) out.push_back({last.offset + ParameterStore::padded(last.numel), 0, -1});
  return out;
}

void update_gpu(Context& ctx, const ParameterStore& parameters, const AdamWStep& step) {
  const std::vector<AdamWSegment> segments = segments_of(parameters);
  const auto* bytes = reinterpret_cast<const uint8_t*>(segments.data());
  const auto size = static_cast<int64_t>(segments.size() * sizeof(AdamWSegment));
  const Tensor device_segments = Tensor::from(ctx, std::span<const uint8_t>(bytes, static_cast<size_t>(size)), {size});
  const Float32View& master = parameters.master();
  const Tensor& compute = parameters.compute();
  const Tensor& float32 = parameters.float32();
  adamw_cuda(ctx,
             {.n = master.numel(),
              .master = master.split() ? nullptr : master.whole().data<float>(),
              .grad = parameters.grad().data<float>(),
              .moment1 = parameters.moment1().data<float>(),
              .moment2 = parameters.moment2().data<float>(),
              .compute = compute.defined() ? compute.data<bf16>() : nullptr,
              .low = master.split() ? reinterpret_cast<uint16_t*>(master.low().data<int16_t>()) : nullptr,
              .up = master.split() ? master.up().data<uint8_t>() : nullptr,
              .float32 = float32.defined() ? float32.data<float>() : nullptr,
              .segment_count = static_cast<int64_t>(segments.size()),
              .segments = static_cast<const AdamWSegment*>(device_segments.raw())},
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
}

double grad_norm(Context& ctx, const ParameterStore& parameters) {
  return std::sqrt(grad_squares(ctx, parameters).to_vector<double>(ctx)[0]);
}

Tensor grad_squares(Context& ctx, const ParameterStore& parameters) {
  return parameters.empty() ? Tensor::zeros(ctx, {1}, DType::f64) : queue_sum_squares(ctx, parameters.grad());
}

}  // namespace matvlm
