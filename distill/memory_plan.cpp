#include "distill/memory_plan.h"

#include <algorithm>

#include "core/allocator.h"
#include "core/comm.h"
#include "distill/trainer.h"

namespace matvlm {

MicroBatch full_batch(const ModelConfig& config, int64_t batch, int64_t length) {
  MicroBatch out;
  const bool images = config.vision && config.vision->tokens() < length;
  if (images) {
    out.n_images = batch;
    out.image_size = config.vision->image_size;
    out.images.assign(static_cast<size_t>(batch * 3 * out.image_size * out.image_size), 0.0F);
  }
  out.rows.cu.push_back(0);
  for (int64_t b = 0; b < batch; ++b) {
    if (images) {
      out.rows.ids.push_back(kImageId);
      out.rows.labels.push_back(kNoLabel);
    }
    for (int64_t i = images ? config.vision->tokens() : 0; i < length; ++i) {
      out.rows.ids.push_back(static_cast<int32_t>(i % config.text.vocab));
      out.rows.labels.push_back(out.rows.ids.back());
    }
    out.rows.cu.push_back(static_cast<int64_t>(out.rows.ids.size()));
    out.rows.image_of_row.push_back(images ? b : -1);
  }
  return out;
}

MemoryPlan plan_memory(const MemoryRequest& request) {
  const std::unique_ptr<Context> ctx = make_counting_context(request.device);
  const auto in_use = [&] { return ctx->allocator()->stats().current; };
  MemoryPlan plan;
  plan.workspace = in_use();
  const auto nothing = [](const std::string&) { return false; };
  ModelWeights teacher_weights;
  std::optional<Vlm> teacher;
  if (request.teacher) {
    teacher_weights = allocate_weights(*ctx, *request.teacher, request.dtype, nothing);
    if (request.frozen_in_fp8) hold_in_fp8(*ctx, *request.teacher, teacher_weights);
    teacher = make_vlm(teacher_weights, *request.teacher);
  }
  const ModelWeights weights = allocate_weights(*ctx, request.student, request.dtype, request.trained,
                                                request.teacher ? &teacher_weights : nullptr, request.offload);
  const Vlm student = make_vlm(weights, request.student);
  plan.trained = weights.store().bytes();
  plan.frozen = in_use() - plan.trained - plan.workspace;

  const auto comms = make_local_comms(1);
  Trainer::Setup setup;
  setup.ctx = ctx.get();
  setup.host = setup.device = comms.front().get();
  setup.models.teacher = teacher ? &*teacher : nullptr;
  setup.models.student = &student;
  setup.models.dtype = request.dtype;
  setup.models.recompute = request.recompute;
  for (const auto& p : weights.store().parameters()) {
    setup.models.vision_trained = setup.models.vision_trained || p->name.starts_with("vision_tower.");
  }
  setup.store = &weights.store();
  setup.loss = request.loss;
  setup.schedule.kind = ScheduleKind::constant;
  setup.schedule.warmup = 0;
  Trainer trainer(setup);
  const std::vector<MicroBatch> batches = {full_batch(request.student, request.batch, request.length)};
  ctx->allocator()->release_cached();
  ctx->allocator()->reset_peak();
  // As in training. The second update finds the blocks of the first, which may be larger than what it asks for.
  const auto prepare = [&] { return trainer.prepare([&] { return batches; }); };
  Trainer::Prepared next = prepare();
  for (int64_t number = 1; number <= 2; ++number) {
    trainer.begin(next, number, (number - 1) * request.batch);
    next = prepare();
    trainer.look_ahead(next);
    trainer.finish();
  }
  plan.peak = ctx->allocator()->stats().peak;
  plan.reserved = ctx->allocator()->stats().reserved;
  plan.activations = plan.peak - plan.frozen - plan.trained - plan.workspace;
  return plan;
}

}  // namespace matvlm
