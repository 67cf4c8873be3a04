// How much memory the training of a model takes, without a device: the step itself is run on a context that only counts
// (make_counting_context), so the prediction follows every change of the step.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "distill/config.h"
#include "distill/step.h"

namespace matvlm {

struct MemoryRequest {
  std::optional<ModelConfig> teacher;  // none: the model learns from labels alone
  ModelConfig student;
  std::function<bool(const std::string& name)> trained;  // tensors of the student
  LossConfig loss;
  DType dtype = DType::bf16;
  bool frozen_in_fp8 = false;  // the teacher's matrices, see hold_in_fp8()
  DeviceType device = DeviceType::cuda;
  RecomputeSpec recompute;
  Offload offload = Offload::none;
  int64_t batch = 1;   // rows of a micro-batch
  int64_t length = 0;  // positions of a row, all of them counted by the losses
};

// Bytes in live blocks of the device's allocator.
struct MemoryPlan {
  int64_t frozen = 0;       // weights that are not trained, of teacher and student
  int64_t trained = 0;      // parameters: compute copies, and masters, gradients and moments as far as on the device
  int64_t workspace = 0;    // of the libraries
  int64_t activations = 0;  // all else at the peak: values kept for backward, gradients of activations, scratch
  int64_t peak = 0;         // the sum
  int64_t reserved = 0;     // taken from the device in the end: cached blocks of other sizes besides
};

// The peak over the updates of one rank.
MemoryPlan plan_memory(const MemoryRequest& request);

// A micro-batch of `batch` rows of `length` positions as plan_memory takes it: each with an image in front where the
// model sees images and the length allows it, and labels on all of the text.
MicroBatch full_batch(const ModelConfig& config, int64_t batch, int64_t length);

}  // namespace matvlm
