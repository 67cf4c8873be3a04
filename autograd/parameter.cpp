// Arena layout of the trained parameters.
#include "autograd/parameter.h"

#include <algorithm>
#include <utility>

#include "autograd/ops/cast.h"

namespace matvlm {
namespace {

bool ends_with(const std::string& s, const std::string& suffix) {
  return s.size() >= suffix.size() && s.compare(s.size() - suffix.size(), suffix.size(), suffix) == 0;
}

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace

float take_grad_factor(Parameter& parameter) { return std::exchange(parameter.fresh, false) ? 0.0F : 1.0F; }

float* grad_to_add(Context& ctx, const Weight& weight) {
  if (!weight.trainable()) return nullptr;
  if (take_grad_factor(*weight.param) == 0) weight.param->grad.zero(ctx);
  return weight.param->grad.data<float>();
}

Parameter* ParameterStore::declare(const std::string& name, Shape shape, bool keep_float32) {
  check(!allocated(), "[parameters] '", name, "' declared after the arenas were allocated");
  check(find(name) == nullptr, "[parameters] '", name, "' declared twice");
  auto parameter = std::make_unique<Parameter>();
  parameter->name = name;
  parameter->numel = shape_numel(shape);
  // PyTorch's usual rule for transformers: matrices are decayed; vectors and everything called bias are not.
  parameter->decay = shape.size() > 1 && !ends_with(name, "bias");
  parameter->shape = std::move(shape);
  parameters_.push_back(std::move(parameter));
  keep_float32_.push_back(keep_float32);
  return parameters_.back().get();
}

void ParameterStore::allocate(Context& ctx, DType compute_dtype, Offload offload) {
  check(!allocated(), "[parameters] allocated twice");
  check(compute_dtype == DType::f32 || compute_dtype == DType::bf16, "[parameters] compute dtype: found ",
        dtype_name(compute_dtype), ", expected f32 or bf16");
  int64_t size = 0;
  for (const auto& p : parameters_) {
    p->offset = size;
    size += padded(p->numel);
  }
  size = std::max<int64_t>(round_up(size, kArenaPadding), kArenaPadding);
  const bool on_host = offload == Offload::cpu;
  const auto make_arena = [&](int64_t n, DType dtype, bool host = false) {
    if (!host) bytes_ += n * dtype_size(dtype);
    return host ? Tensor::zeros_on_host(ctx, {n}, dtype) : Tensor::zeros(ctx, {n}, dtype);
  };
  grad_ = make_arena(size, DType::f32);
  moment1_ = make_arena(size, DType::f32, on_host);
  moment2_ = make_arena(size, DType::f32, on_host);
  if (compute_dtype == DType::f32) {
    master_ = make_arena(size, DType::f32);
  } else {
    compute_ = make_arena(size, compute_dtype);
    master_ = on_host ? Float32View(make_arena(size, DType::f32, true))
                      : Float32View(compute_, make_arena(size, DType::i16),
                                    make_arena(size / Float32View::kUpBits, DType::u8));
  }
  int64_t in_float32 = 0;
  for (size_t i = 0; compute_.defined() && i < parameters_.size(); ++i) {
    if (keep_float32_[i]) in_float32 += padded(parameters_[i]->numel);
  }
  if (in_float32 > 0) float32_ = make_arena(in_float32, DType::f32);
  in_float32 = 0;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = *parameters_[i];
    const auto view = [&](const Tensor& arena, int64_t offset) {
      return arena.slice_rows(offset, offset + p.numel).reshape(p.shape);
    };
    p.master = master_.slice(p.offset, p.offset + p.numel, p.shape);
    p.grad = view(grad_, p.offset);
    p.moment1 = view(moment1_, p.offset);
    p.moment2 = view(moment2_, p.offset);
    if (!compute_.defined()) {
      p.value = p.master.whole();
    } else if (keep_float32_[i]) {
      p.value = view(float32_, in_float32);
      in_float32 += padded(p.numel);
    } else {
      p.value = view(compute_, p.offset);
    }
  }
}

int64_t ParameterStore::float32_offset(const Parameter& p) const {
  if (!float32_.defined() || p.value.dtype() != DType::f32) return -1;
  return p.value.data<float>() - float32_.data<float>();
}

Parameter* ParameterStore::find(const std::string& name) const {
  for (const auto& p : parameters_) {
    if (p->name == name) return p.get();
  }
  return nullptr;
}

int64_t ParameterStore::numel() const {
  int64_t n = 0;
  for (const auto& p : parameters_) n += p->numel;
  return n;
}

void ParameterStore::zero_grad(Context& ctx) const { grad_.zero(ctx); }

void ParameterStore::begin_update(Context& ctx, int64_t fresh_numel) const {
  int64_t begin = 0;  // of the run of small gradients (and padding) that is to be zeroed
  int64_t end = 0;
  const auto zero_run = [&] {
    if (end > begin) grad_.slice_rows(begin, end).zero(ctx);
  };
  for (const auto& p : parameters_) {
    p->fresh = p->numel >= fresh_numel;
    if (!p->fresh) {
      end = p->offset + p->numel;
      continue;
    }
    zero_run();
    begin = end = p->offset + p->numel;
  }
  zero_run();
}

void ParameterStore::settle(Context& ctx, size_t first, size_t last) const {
  for (size_t i = first; i < last; ++i) {
    Parameter& p = *parameters_[i];
    if (std::exchange(p.fresh, false)) p.grad.zero(ctx);
  }
}

void ParameterStore::refresh_compute(Context& ctx) const {
  if (compute_.defined() && !master_.split()) cast_into(ctx, master_.whole(), compute_);
  for (const auto& p : parameters_) {
    if (float32_offset(*p) >= 0) p->value.copy_from_floats(ctx, p->master.to_floats(ctx));
  }
}

}  // namespace matvlm
