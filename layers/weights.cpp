// Frozen tensors and parameters of a model.
#include "layers/weights.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include "core/allocator.h"
#include "core/gemm_fp8.h"
#include "core/tensor_upload.h"

namespace matvlm {

bool is_fp8_matrix(const ModelTensor& tensor) {
  return tensor.shape.size() == 2 && tensor.name.find(".layers.") != std::string::npos &&
         tensor.shape[0] % kFp8Multiple == 0 && tensor.shape[1] % kFp8Multiple == 0;
}

Weight ModelWeights::get(const std::string& name, const Shape& shape) const {
  Weight weight;
  const auto in_fp8 = fp8_.find(name);
  if (Parameter* parameter = store_->find(name)) {
    weight = {parameter->value, parameter};
  } else if (in_fp8 != fp8_.end()) {
    weight.fp8 = in_fp8->second;
  } else {
    const auto found = frozen_.find(name);
    check(found != frozen_.end(), "[weights] no tensor '", name, "'");
    weight.value = found->second;
  }
  const Shape& held = weight.fp8 != nullptr ? weight.fp8->shape() : weight.value.shape();
  check(held == shape, "[weights] '", name, "': found ", shape_string(held), ", expected ", shape_string(shape));
  return weight;
}

std::vector<float> ModelWeights::values(Context& ctx, const std::string& name) const {
  if (const Parameter* parameter = store_->find(name)) return parameter->master.to_floats(ctx);
  check(!fp8_.contains(name), "[weights] '", name, "': found it in fp8, expected its values from where it was read");
  const auto found = frozen_.find(name);
  check(found != frozen_.end(), "[weights] no tensor '", name, "'");
  return found->second.to_floats(ctx);
}

Tensor ModelWeights::joined(const std::vector<std::string>& names) const {
  const Parameter* first = store_->find(names.at(0));
  const Parameter* last = first;
  for (size_t i = 1; first != nullptr && i < names.size(); ++i) {
    const Parameter* next = store_->find(names[i]);
    if (next == nullptr || next->offset != last->offset + last->numel || next->value.dtype() != last->value.dtype()) {
      return {};
    }
    last = next;
  }
  if (first != nullptr) {
    Shape shape = first->shape;
    shape[0] = (last->offset + last->numel - first->offset) / (first->numel / shape[0]);
    const Tensor& arena = store_->compute().defined() ? store_->compute() : store_->master().whole();
    const Tensor all = arena.slice_rows(first->offset, last->offset + last->numel).reshape(shape);
    return all.raw() == first->value.raw() ? all : Tensor();
  }
  const auto found = joined_.find(names[0]);
  if (found == joined_.end()) return {};
  int64_t begin = 0;
  for (const std::string& name : names) {
    const auto part = frozen_.find(name);
    if (part == frozen_.end() || begin + part->second.dim(0) > found->second.dim(0)) return {};
    const int64_t end = begin + part->second.dim(0);
    if (found->second.slice_rows(begin, end).raw() != part->second.raw()) return {};
    begin = end;
  }
  return begin == found->second.dim(0) ? found->second : Tensor();
}

std::shared_ptr<const Fp8Weight> ModelWeights::fp8_joined(const std::vector<std::string>& names) const {
  const auto found = fp8_joined_.find(names.at(0));
  const auto in_fp8 = [&](const std::string& name) { return fp8_.contains(name); };
  if (found == fp8_joined_.end() || !std::all_of(names.begin(), names.end(), in_fp8)) return nullptr;
  return found->second;
}

int64_t ModelWeights::numel() const {
  int64_t n = store_->numel();
  for (const auto& [name, tensor] : frozen_) n += tensor.numel();
  for (const auto& [name, weight] : fp8_) n += weight->numel();
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

std::vector<float> values_of(const ValueSource& values, const ModelTensor& t) {
  std::vector<float> host = values(t.name);
  check(static_cast<int64_t>(host.size()) == shape_numel(t.shape), "[weights] '", t.name, "': found ", host.size(),
        " values, expected ", shape_numel(t.shape));
  return host;
}

using Names = std::map<std::string, const ModelTensor*>;

// Those of the tensor's group that the model has, the tensor first.
std::vector<const ModelTensor*> group_of(const Names& by_name, const ModelTensor& t) {
  std::vector<const ModelTensor*> out;
  for (const std::string& name : joined_names(t.name)) {
    if (by_name.contains(name)) out.push_back(by_name.at(name));
  }
  return out;
}

// Memory for the frozen tensors of a group, which is one tensor when all of them are the model's own.
void allocate_frozen(Context& ctx, ModelWeights& out, const std::vector<const ModelTensor*>& group, DType dtype) {
  const auto is_taken = [&](const ModelTensor* t) {
    return out.frozen().contains(t->name) || out.fp8().contains(t->name) || out.store().find(t->name) != nullptr;
  };
  if (group.size() == 1 || std::any_of(group.begin(), group.end(), is_taken)) {
    if (!is_taken(group[0])) {
      const ModelTensor& t = *group[0];
      out.set_frozen(t.name, Tensor::empty(ctx, t.shape, t.keep_float32 ? DType::f32 : dtype));
    }
    return;
  }
  Shape shape = group[0]->shape;
  for (size_t i = 1; i < group.size(); ++i) shape[0] += group[i]->shape[0];
  const Tensor rows = Tensor::empty(ctx, shape, dtype);
  out.set_joined(group[0]->name, rows);
  int64_t begin = 0;
  for (const ModelTensor* t : group) {
    out.set_frozen(t->name, rows.slice_rows(begin, begin + t->shape[0]));
    begin += t->shape[0];
  }
}

// The parameters, parts of one product one behind the other.
void declare_trained(ModelWeights& out, const std::vector<ModelTensor>& tensors, const Names& by_name,
                     const std::function<bool(const std::string&)>& trained) {
  for (const ModelTensor& t : tensors) {
    for (const ModelTensor* part : group_of(by_name, t)) {
      if (trained(part->name) && out.store().find(part->name) == nullptr) {
        out.store().declare(part->name, part->shape, part->keep_float32);
      }
    }
  }
}

// stored: the file that frozen tensors are taken from; else from `values`.
ModelWeights fill_weights(Context& ctx, const ModelConfig& config, DType dtype,
                          const std::function<bool(const std::string&)>& trained, const ValueSource& values,
                          const ModelWeights* shared, const TensorSource* stored, Offload offload) {
  ModelWeights out = allocate_weights(ctx, config, dtype, trained, shared, offload);
  std::vector<UploadItem> items;
  for (const ModelTensor& t : model_tensors(config)) {
    if (const Parameter* parameter = out.store().find(t.name)) {
      set_parameter(ctx, *parameter, values_of(values, t));
      continue;
    }
    if (shared != nullptr && (shared->frozen().contains(t.name) || shared->fp8().contains(t.name))) continue;
    const Tensor& to = out.frozen().at(t.name);
    const std::string name = stored == nullptr ? "" : name_in_source(*stored, t.name);
    if (name.empty()) {
      to.copy_from_floats(ctx, values_of(values, t));
    } else {
      items.push_back({to, name});
    }
  }
  if (!items.empty()) upload_tensors(ctx, *stored, items);
  return out;
}

}  // namespace

ModelWeights allocate_frozen_weights(Context& ctx, const ModelConfig& config, DType dtype) {
  ModelWeights out;
  const std::vector<ModelTensor> tensors = model_tensors(config);
  Names by_name;
  for (const ModelTensor& t : tensors) by_name[t.name] = &t;
  for (const ModelTensor& t : tensors) {
    if (!out.frozen().contains(t.name)) allocate_frozen(ctx, out, group_of(by_name, t), dtype);
  }
  return out;
}

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
  parameter.master.copy_from_floats(ctx, values);
  // Of split ones that is the compute copy as well.
  if (parameter.value.raw() != parameter.master.raw()) parameter.value.copy_from_floats(ctx, values);
}

ModelWeights allocate_weights(Context& ctx, const ModelConfig& config, DType dtype,
                              const std::function<bool(const std::string&)>& trained, const ModelWeights* shared,
                              Offload offload) {
  ModelWeights out;
  const std::vector<ModelTensor> tensors = model_tensors(config);
  Names by_name;
  for (const ModelTensor& t : tensors) by_name[t.name] = &t;
  declare_trained(out, tensors, by_name, trained);
  out.store().allocate(ctx, dtype, offload);
  for (const ModelTensor& t : tensors) {
    if (shared == nullptr || out.store().find(t.name) != nullptr) continue;
    if (shared->fp8().contains(t.name)) {
      out.set_fp8(t.name, shared->fp8().at(t.name));
      if (shared->fp8_joined().contains(t.name)) out.set_fp8_joined(t.name, shared->fp8_joined().at(t.name));
      continue;
    }
    if (!shared->frozen().contains(t.name)) continue;
    out.set_frozen(t.name, shared->frozen().at(t.name));
    if (shared->joined().contains(t.name)) out.set_joined(t.name, shared->joined().at(t.name));
  }
  for (const ModelTensor& t : tensors) {
    if (out.store().find(t.name) == nullptr) allocate_frozen(ctx, out, group_of(by_name, t), dtype);
  }
  return out;
}

ModelWeights make_weights(Context& ctx, const ModelConfig& config, DType dtype,
                          const std::function<bool(const std::string&)>& trained, const ValueSource& values,
                          const ModelWeights* shared, Offload offload) {
  return fill_weights(ctx, config, dtype, trained, values, shared, nullptr, offload);
}

ModelWeights load_frozen_weights(Context& ctx, const ModelConfig& config, const TensorSource& source, DType dtype) {
  check_source(config, source);
  // What needs no conversion goes to the device from the file, without a copy in between.
  return fill_weights(
      ctx, config, dtype, [](const std::string&) { return false; }, values_from(source), nullptr, &source,
      Offload::none);
}

namespace {

// The frozen tensors that are rows of one with `t`, where all of them can be in fp8; else `t` alone.
std::vector<const ModelTensor*> fp8_group(const ModelWeights& weights, const Names& by_name, const ModelTensor& t) {
  const std::vector<const ModelTensor*> group = group_of(by_name, t);
  const bool all = std::all_of(group.begin(), group.end(), [&](const ModelTensor* part) {
    return is_fp8_matrix(*part) && weights.frozen().contains(part->name);
  });
  return all && weights.joined().contains(t.name) ? group : std::vector<const ModelTensor*>{&t};
}

}  // namespace

void hold_in_fp8(Context& ctx, const ModelConfig& config, ModelWeights& weights) {
  const std::vector<ModelTensor> tensors = model_tensors(config);
  Names by_name;
  for (const ModelTensor& t : tensors) by_name[t.name] = &t;
  for (const ModelTensor& t : tensors) {
    if (!is_fp8_matrix(t) || !weights.frozen().contains(t.name)) continue;
    const std::vector<const ModelTensor*> group = fp8_group(weights, by_name, t);
    if (group.size() == 1) {
      weights.set_fp8(t.name, std::make_shared<const Fp8Weight>(ctx, weights.frozen().at(t.name)));
      continue;
    }
    const auto whole = std::make_shared<const Fp8Weight>(ctx, weights.joined().at(t.name));
    int64_t begin = 0;
    for (const ModelTensor* part : group) {
      weights.set_fp8(part->name, std::make_shared<const Fp8Weight>(*whole, begin, begin + part->shape[0]));
      begin += part->shape[0];
    }
    weights.set_fp8_joined(t.name, whole);
  }
  ctx.allocator()->release_cached();
}

}  // namespace matvlm
