// What a micro-batch brings to a step: everything that the host has to say, made before the step begins and sent to the
// device together. The step itself reads nothing of the host but shapes, so that it can be queued, or recorded and run
// again with other values at the same addresses.
#pragma once

#include <vector>

#include "autograd/ops/embed_splice.h"
#include "distill/config.h"
#include "distill/losses.h"
#include "distill/step_timer.h"
#include "layers/vlm.h"

namespace matvlm {

// A micro-batch on the host.
struct MicroBatch {
  TokenRows rows;
  std::vector<float> images;  // n_images x 3 x image_size x image_size
  int64_t n_images = 0;
  int64_t image_size = 0;
  Tensor device_images;  // the same on the device, see upload_images(), where uploaded beforehand
};

// What a step needs to know of the models. teacher: none when the student learns from labels alone.
struct Models {
  const Vlm* teacher = nullptr;
  const Vlm* student = nullptr;
  DType dtype = DType::f32;     // compute dtype
  bool vision_trained = false;  // then the student has its own vision pass, in the graph
  RecomputeSpec recompute;
  int64_t max_length = 0;
  StepTimer* timer = nullptr;  // of a benchmark
};

// The pictures on the device, [n_images, 3, image_size, image_size], rounded to the type that the vision tower's first
// layer would round them to: half the bytes to send where that is bf16. Undefined without any.
Tensor upload_images(Context& ctx, const Models& models, const MicroBatch& batch);

SplicedRows splice_for(const Models& models, const MicroBatch& batch);

struct StepInputs {
  int64_t n_images = 0;
  Tensor images;       // [n_images, 3, S, S]; undefined without any
  SeqlensPtr vision;   // of their patches; null without any
  Pass pass;           // texts that share a row do not see each other,
  SeqlensPtr samples;  // but a row is one sample of the losses; pass.lens itself where every row is one text
  SpliceIndex splice;
  LayerLossSpec layer_spec;  // not set where the layer loss is `none`
  HeadLossSpec head_spec;
  LayerLossRows layer_rows;
  HeadLossRows head_rows;
  Tensor values;  // u8, of which all tensors above but the pictures are views
  // Everything above that is no value on the device. A step with equal `shape` issues the same work on the same shapes.
  std::vector<int64_t> shape;

  bool empty() const { return samples == nullptr || samples->batch() == 0; }
  int64_t tokens() const { return pass.lens->tokens(); }
};

// `counts` are the update's. backward: whether gradients will be asked for.
StepInputs make_step_inputs(Context& ctx, const Models& models, const LossConfig& loss, const MicroBatch& batch,
                            const SplicedRows& rows, const UpdateCounts& counts, bool backward);

// Whether the student has a connector of its own.
bool trains_connector(const Vlm& student);

}  // namespace matvlm
