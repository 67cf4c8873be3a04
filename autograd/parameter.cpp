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
  compute_dtype_ = compute_dtype;
  offload_ = offload;
  int64_t size = 0;
  for (const auto& p : parameters_) {
    p->offset = size;
    size += round_up(p->numel, kAlignment);
  }
  size = std::max<int64_t>(round_up(size, kArenaPadding), kArenaPadding);
  const bool on_host = offload == Offload::cpu;
  const bool masters_on_host = on_host && compute_dtype != DType::f32;
  const auto make_arena = [&](bool host) {
    return host ? Tensor::zeros_on_host(ctx, {size}, DType::f32) : Tensor::zeros(ctx, {size}, DType::f32);
  };
  master_ = make_arena(masters_on_host);
  grad_ = make_arena(false);
  moment1_ = make_arena(on_host);
  moment2_ = make_arena(on_host);
  if (compute_dtype != DType::f32) compute_ = Tensor::zeros(ctx, {size}, compute_dtype);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = *parameters_[i];
    const auto view = [&](const Tensor& arena) {
      return arena.slice_rows(p.offset, p.offset + p.numel).reshape(p.shape);
    };
    p.master = view(master_);
    p.grad = view(grad_);
    p.moment1 = view(moment1_);
    p.moment2 = view(moment2_);
    if (compute_.defined() && !keep_float32_[i]) {
      p.value = view(compute_);
    } else {
      p.value = masters_on_host ? Tensor::zeros(ctx, p.shape, DType::f32) : p.master;
    }
  }
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

int64_t ParameterStore::bytes() const {
  const int64_t values = compute_dtype_ == DType::f32 ? 0 : dtype_size(compute_dtype_);
  const int64_t states = offload_ == Offload::none ? 12 : values == 0 ? 4 : 0;  // masters and moments
  return grad_.numel() * (4 + values + states);
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
  if (compute_.defined()) cast_into(ctx, master_, compute_);
  refresh_float32(ctx);
}

void ParameterStore::refresh_float32(Context& ctx) const {
  for (const auto& p : parameters_) {
    if (p->value.dtype() == DType::f32 && p->value.raw() != p->master.raw()) p->value.copy_from(ctx, p->master);
  }
}

}  // namespace matvlm
