// Frozen tensors and parameters of a model.
#include "layers/weights.h"

#include <array>
#include <optional>
#include <span>
#include <utility>

namespace matvlm {

Weight ModelWeights::get(const std::string& name, const Shape& shape) const {
  Weight weight;
  if (Parameter* parameter = store_->find(name)) {
    weight = {parameter->value, parameter};
  } else {
    const auto found = frozen_.find(name);
    check(found != frozen_.end(), "[weights] no tensor '", name, "'");
    weight.value = found->second;
  }
  check(weight.value.shape() == shape, "[weights] '", name, "': found ", shape_string(weight.value.shape()),
        ", expected ", shape_string(shape));
  return weight;
}

std::vector<float> ModelWeights::values(Context& ctx, const std::string& name) const {
  if (const Parameter* parameter = store_->find(name)) return parameter->master.to_floats(ctx);
  const auto found = frozen_.find(name);
  check(found != frozen_.end(), "[weights] no tensor '", name, "'");
  return found->second.to_floats(ctx);
}

int64_t ModelWeights::numel() const {
  int64_t n = store_->numel();
  for (const auto& [name, tensor] : frozen_) n += tensor.numel();
  return n;
}

namespace {

// Error for a NaN or an infinity among the elements of a tensor of `source`.
void check_finite(const TensorSource& source, const std::string& name, DType dtype, std::span<const std::byte> bytes) {
  const int64_t bad = first_not_finite(dtype, bytes);
  if (bad < 0) return;
  std::array<float, 1> value{};
  const auto size = static_cast<size_t>(dtype_size(dtype));
  convert_to_floats(name, dtype, bytes.subspan(static_cast<size_t>(bad) * size, size), value);
  fail(source.path(), ": '", name, "': found ", value[0], " at element ", bad, ", expected finite numbers");
}

// The tensor straight from the mapped file, where it is stored as it is wanted.
std::optional<Tensor> stored_tensor(Context& ctx, const TensorSource& source, const ModelTensor& t, DType dtype) {
  const std::string name = name_in_source(source, t.name);
  if (name.empty() || source.info(name).dtype != dtype) return std::nullopt;
  const auto bytes = source.plain_bytes(name);
  if (!bytes) return std::nullopt;
  check_finite(source, name, dtype, *bytes);
  Tensor tensor = Tensor::empty(ctx, t.shape, dtype);
  ctx.to_device(tensor.raw(), bytes->data(), static_cast<int64_t>(bytes->size()));
  return tensor;
}

}  // namespace

ValueSource values_from(const TensorSource& source) {
  return [source](const std::string& name) {
    const std::string found = name_in_source(source, name);
    std::vector<float> values = found.empty() ? std::vector<float>() : source.read_floats(found);
    check_finite(source, found, DType::f32, std::as_bytes(std::span<const float>(values)));
    return values;
  };
}

void set_parameter(Context& ctx, const Parameter& parameter, const std::vector<float>& values) {
  check(static_cast<int64_t>(values.size()) == parameter.numel, "[weights] '", parameter.name, "': found ",
        values.size(), " values, expected ", parameter.numel);
  ctx.to_device(parameter.master.raw(), values.data(), parameter.numel * dtype_size(DType::f32));
  if (parameter.value.dtype() != DType::f32) {
    parameter.value.copy_from(ctx, Tensor::from_floats(ctx, values, parameter.shape, parameter.value.dtype()));
  }
}

ModelWeights make_weights(Context& ctx, const ModelConfig& config, DType dtype,
                          const std::function<bool(const std::string&)>& trained, const ValueSource& values,
                          const ModelWeights* shared) {
  ModelWeights out;
  const std::vector<ModelTensor> tensors = model_tensors(config);
  for (const ModelTensor& t : tensors) {
    if (trained(t.name)) out.store().declare(t.name, t.shape, t.keep_float32);
  }
  out.store().allocate(ctx, dtype);
  for (const ModelTensor& t : tensors) {
    const Parameter* parameter = out.store().find(t.name);
    if (parameter == nullptr && shared != nullptr && shared->frozen().contains(t.name)) {
      out.set_frozen(t.name, shared->frozen().at(t.name));
      continue;
    }
    const std::vector<float> host = values(t.name);
    check(static_cast<int64_t>(host.size()) == shape_numel(t.shape), "[weights] '", t.name, "': found ", host.size(),
          " values, expected ", shape_numel(t.shape));
    if (parameter != nullptr) {
      set_parameter(ctx, *parameter, host);
    } else {
      out.set_frozen(t.name, Tensor::from_floats(ctx, host, t.shape, t.keep_float32 ? DType::f32 : dtype));
    }
  }
  return out;
}

ModelWeights load_frozen_weights(Context& ctx, const ModelConfig& config, const TensorSource& source, DType dtype) {
  check_source(config, source);
  // What needs no conversion goes to the device from the file, without a copy in between.
  ModelWeights direct;
  for (const ModelTensor& t : model_tensors(config)) {
    if (auto tensor = stored_tensor(ctx, source, t, t.keep_float32 ? DType::f32 : dtype)) {
      direct.set_frozen(t.name, std::move(*tensor));
    }
  }
  return make_weights(
      ctx, config, dtype, [](const std::string&) { return false; }, values_from(source), &direct);
}

}  // namespace matvlm
