// The weights of one model: frozen tensors by name, held once and shared between teacher and student, and the store of
// trained parameters. Building a student from a teacher copies handles, not data.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "autograd/fp8_weight.h"
#include "autograd/parameter.h"
#include "core/tensor_source.h"
#include "layers/config.h"
#include "layers/tensors.h"

namespace matvlm {

// Whether hold_in_fp8() moves a frozen tensor to fp8: the projections of the blocks of vision tower and
// language model whose sizes the format's products take. Embeddings, head and connector stay as they are.
bool is_fp8_matrix(const ModelTensor& tensor);

class ModelWeights {
 public:
  ModelWeights() : store_(std::make_shared<ParameterStore>()) {}

  using Fp8Weights = std::map<std::string, std::shared_ptr<const Fp8Weight>>;
  // The trained parameter of that name, or the frozen tensor. Error when absent or of another shape.
  Weight get(const std::string& name, const Shape& shape) const;
  void set_frozen(const std::string& name, Tensor value) { frozen_[name] = std::move(value); }
  // Memory of frozen tensors that are its rows, one behind the other, by the name of the first (joined_names()).
  void set_joined(const std::string& first, Tensor rows) { joined_[first] = std::move(rows); }
  // Tensors as one, along their leading dimension, where they lie one behind the other in memory; else undefined.
  Tensor joined(const std::vector<std::string>& names) const;
  const std::map<std::string, Tensor>& joined() const { return joined_; }
  // Also takes the name from the other frozen tensors.
  void set_fp8(const std::string& name, std::shared_ptr<const Fp8Weight> weight) {
    frozen_.erase(name);
    joined_.erase(name);
    fp8_[name] = std::move(weight);
  }
  // As set_joined() and joined(), for matrices in fp8.
  void set_fp8_joined(const std::string& first, std::shared_ptr<const Fp8Weight> rows) {
    fp8_joined_[first] = std::move(rows);
  }
  std::shared_ptr<const Fp8Weight> fp8_joined(const std::vector<std::string>& names) const;
  const Fp8Weights& fp8_joined() const { return fp8_joined_; }
  // Frozen tensors; a name is in one of the two.
  const std::map<std::string, Tensor>& frozen() const { return frozen_; }
  const Fp8Weights& fp8() const { return fp8_; }
  ParameterStore& store() const { return *store_; }
  // float32 values of a tensor, on the host. Error for one in fp8: its values are those of the file it came from.
  std::vector<float> values(Context& ctx, const std::string& name) const;
  int64_t numel() const;  // of all tensors

 private:
  std::map<std::string, Tensor> frozen_, joined_;
  Fp8Weights fp8_, fp8_joined_;
  std::shared_ptr<ParameterStore> store_;
};

// A function that supplies the float32 start values of a tensor; an empty vector means that it has none.
using ValueSource = std::function<std::vector<float>(const std::string& name)>;
// Values of the source's tensors. Error for a NaN or an infinity, with file, name and element.
ValueSource values_from(const TensorSource& source);

// The weights of `config` without values: tensors for which `trained` holds become parameters, the others frozen
// tensors in `dtype`, those of `shared` where it has the name.
ModelWeights allocate_weights(Context& ctx, const ModelConfig& config, DType dtype,
                              const std::function<bool(const std::string&)>& trained,
                              const ModelWeights* shared = nullptr, Offload offload = Offload::none);

// Makes the weights of `config`: tensors for which `trained` holds become parameters (float32 master from `values`),
// the others frozen tensors in `dtype`: from `shared` when it has the name (there perhaps in fp8), else from `values`.
// Error when neither has.
ModelWeights make_weights(Context& ctx, const ModelConfig& config, DType dtype,
                          const std::function<bool(const std::string&)>& trained, const ValueSource& values,
                          const ModelWeights* shared = nullptr, Offload offload = Offload::none);

// All of DIR or file, frozen, checked against the config.
ModelWeights load_frozen_weights(Context& ctx, const ModelConfig& config, const TensorSource& source, DType dtype);

// All tensors of the model, frozen and not yet written, those of joined_names() as one.
ModelWeights allocate_frozen_weights(Context& ctx, const ModelConfig& config, DType dtype);

// Moves the frozen matrices for which is_fp8_matrix() holds to fp8, one after the other, and gives the memory of the
// rest back. Models that share them are made afterwards.
void hold_in_fp8(Context& ctx, const ModelConfig& config, ModelWeights& weights);

// Overwrites master (and compute copy) of a parameter.
void set_parameter(Context& ctx, const Parameter& parameter, const std::vector<float>& values);

}  // namespace matvlm
