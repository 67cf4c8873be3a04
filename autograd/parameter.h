// Parameters and weights. A Weight is what layers hold and ops read: a tensor in compute dtype, plus the Parameter
// behind it when it is trained. Frozen weights have no Parameter and may be shared between teacher and student; frozen
// matrices may be held in fp8 instead.
// Parameters live in one arena per kind (float32 master, compute copy, gradient, first and second moment), so that one
// walk serves the all-reduce, one launch serves AdamW and checkpoints are keyed by name. Where compute is in bf16 and
// everything on the device, a master is its compute copy and what that lacks: 16 1/8 bytes a parameter in all.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "autograd/float32_view.h"
#include "core/tensor.h"

namespace matvlm {

// Where the optimizer's state lies: moments and, where they are not what compute reads, float32 masters. `cpu`: in host
// memory that the device reads and writes in the update.
enum class Offload { none, cpu };

struct Parameter {
  std::string name;
  Shape shape;
  bool decay = false;  // weight decay applies: not 1-d and not a bias
  int64_t offset = 0;  // first element in the arenas
  int64_t numel = 0;
  Float32View master;        // view of the arena
  Tensor value;              // compute dtype; `master` itself when that is whole, in f32 and not offloaded
  Tensor grad;               // f32; ops add into it
  Tensor moment1, moment2;   // f32
  int64_t pending_uses = 0;  // recorded uses whose backward has not run yet; kept by Graph
  bool fresh = false;        // grad holds nothing yet: the update's first contribution writes it
};

class Fp8Weight;  // autograd/fp8_weight.h

struct Weight {
  Tensor value;
  Parameter* param = nullptr;
  std::shared_ptr<const Fp8Weight> fp8 = nullptr;  // frozen matrices: in place of value, which then is undefined
  bool defined() const { return value.defined() || fp8 != nullptr; }
  bool trainable() const { return param != nullptr; }
};

// How ops add to a parameter's gradient, which an update does not zero beforehand (ParameterStore::begin_update).
// For products, which can write as well as add: the factor of what `grad` holds, 0 for an update's first contribution
// and 1 for later ones. The caller writes the contribution next.
float take_grad_factor(Parameter& parameter);
// For everything else: where to add, zeroed for an update's first contribution; null for a frozen weight.
float* grad_to_add(Context& ctx, const Weight& weight);

// All trained parameters of a model. Declared first, then allocated together by allocate().
class ParameterStore {
 public:
  // Returns a stable pointer. keep_float32: compute reads float32 whatever the compute dtype (A_log, D, dt_bias). Error
  // on a duplicate name or after allocate().
  Parameter* declare(const std::string& name, Shape shape, bool keep_float32 = false);
  // Allocates the arenas (zeros) and the views. The arenas are padded to a multiple of kArenaPadding elements, so that
  // any number of ranks up to that can own equal slices.
  void allocate(Context& ctx, DType compute_dtype, Offload offload = Offload::none);
  static constexpr int64_t kArenaPadding = 5040 * 64;  // divisible by 1..10, 12, 14, 16, ...
  static constexpr int64_t kAlignment = 64;            // elements; every parameter starts on one
  // Elements that a parameter of n has in an arena, padding counted.
  static constexpr int64_t padded(int64_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }

  const std::vector<std::unique_ptr<Parameter>>& parameters() const { return parameters_; }
  Parameter* find(const std::string& name) const;  // nullptr when there is none
  int64_t numel() const;                           // of the parameters, padding not counted
  int64_t bytes() const { return bytes_; }         // of the device's memory
  bool empty() const { return parameters_.empty(); }
  bool allocated() const { return master_.defined(); }

  // Whole arenas, 1-d; padding elements are always 0.
  const Float32View& master() const { return master_; }
  const Tensor& compute() const { return compute_; }  // undefined when the compute dtype is f32
  const Tensor& grad() const { return grad_; }
  const Tensor& moment1() const { return moment1_; }
  const Tensor& moment2() const { return moment2_; }
  // f32, 1-d: copies of the masters that compute reads in float32 and cannot read where they are, the parameter p from
  // float32_offset(p) on, at a multiple of kAlignment. Undefined without any; -1 for other parameters.
  const Tensor& float32() const { return float32_; }
  int64_t float32_offset(const Parameter& p) const;
  void zero_grad(Context& ctx) const;
  // Instead of zero_grad, without a walk over the arena: gradients of fresh_numel elements and more become fresh, the
  // small ones between them are zeroed. settle() then zeroes what is still fresh among parameters [first, last): those
  // no op contributed to.
  void begin_update(Context& ctx, int64_t fresh_numel = 1 << 16) const;
  void settle(Context& ctx, size_t first, size_t last) const;
  // Makes what compute reads from the masters (after loading; AdamW does it itself).
  void refresh_compute(Context& ctx) const;

 private:
  std::vector<std::unique_ptr<Parameter>> parameters_;
  std::vector<bool> keep_float32_;
  Float32View master_;
  Tensor compute_, grad_, moment1_, moment2_, float32_;
  int64_t bytes_ = 0;
};

}  // namespace matvlm
