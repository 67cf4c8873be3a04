#include "distill/step_inputs.h"

namespace matvlm {
namespace {

HeadLossSpec head_spec(const Models& models, const LossConfig& loss, const LossWeights& weights) {
  HeadLossSpec spec;
  spec.kind = models.teacher != nullptr ? logit_kind(loss.logit) : LogitKind::none;
  spec.temperature = loss.temperature;
  spec.segment_norm = weights.logit_segment_norm;
  spec.logit_scale = loss.logit_weight;
  spec.ce_scale = loss.ce_weight;
  return spec;
}

void make_splice(UploadBatch& uploads, const Models& models, const SplicedRows& rows, bool backward, StepInputs& out) {
  const Vlm& student = *models.student;
  const int64_t features = out.n_images > 0 ? out.n_images * student.config.vision->patches() : 0;
  const bool feature_grad = backward && features > 0 && (models.vision_trained || trains_connector(student));
  make_splice_index(uploads, rows.source, student.text.embed.value.dim(0), features, feature_grad,
                    backward && student.text.embed.trainable(), out.splice);
}

void make_losses(UploadBatch& uploads, const Models& models, const LossConfig& loss, const LossWeights& weights,
                 StepInputs& out) {
  if (models.teacher != nullptr && loss.layer != LayerLossKind::none) {
    out.layer_spec = {layer_kind(loss.layer), weights.layer_segment_norm, loss.layer_weight};
    make_layer_loss_rows(uploads, out.layer_spec, weights.layer, weights.segment, out.samples, out.layer_rows);
  }
  out.head_spec = head_spec(models, loss, weights);
  HeadLossWeights head;
  if (out.head_spec.kind != LogitKind::none) head.logit_weight = weights.logit;
  head.segment_weight = weights.segment;
  head.lens = out.samples;
  head.ce_weight = weights.ce;
  head.ce_target = weights.targets;
  make_head_loss_rows(uploads, out.head_spec, head, out.tokens(), models.student->text.head.weight.value.dim(0),
                      out.head_rows);
}

}  // namespace

Tensor upload_images(Context& ctx, const Models& models, const MicroBatch& batch) {
  if (batch.n_images == 0) return {};
  const std::optional<VisionTower>& tower = models.student->vision;
  check(tower.has_value(), "[step] images for a model without a vision tower");
  return Tensor::from_floats(ctx, batch.images, {batch.n_images, 3, batch.image_size, batch.image_size},
                             tower->patch_weight.value.dtype());
}

SplicedRows splice_for(const Models& models, const MicroBatch& batch) {
  const ModelConfig& c = models.student->config;
  return splice_rows(batch.rows, c.vision ? c.vision->patches() : 0, c.vision && c.vision->drop_first_patch,
                     models.max_length, c.text.vocab);
}

bool trains_connector(const Vlm& student) {
  const Connector& c = student.connector;
  return c.fc1.weight.trainable() || c.fc1.bias.trainable() || c.fc2.weight.trainable() || c.fc2.bias.trainable();
}

StepInputs make_step_inputs(Context& ctx, const Models& models, const LossConfig& loss, const MicroBatch& batch,
                            const SplicedRows& rows, const UpdateCounts& counts, bool backward) {
  StepInputs out;
  UploadBatch uploads;
  out.n_images = batch.n_images;
  if (batch.n_images > 0) {
    out.images = batch.device_images.defined() ? batch.device_images : upload_images(ctx, models, batch);
    out.vision = make_seqlens(uploads, vision_boundaries(*models.student->config.vision, batch.n_images));
  }
  make_pass(uploads, rows.sequence_cu(), out.pass);
  out.samples = rows.sequences.empty() ? out.pass.lens : make_seqlens(uploads, rows.cu);
  make_splice(uploads, models, rows, backward, out);
  make_losses(uploads, models, loss, loss_weights(loss, rows, counts), out);
  out.values = uploads.send(ctx);

  // The layout holds the sizes of all lists; lengths of texts and rows decide the work beyond that.
  out.shape = {batch.n_images, batch.n_images > 0 ? batch.image_size : 0, backward ? 1 : 0};
  const auto append = [&](const std::vector<int64_t>& values) {
    out.shape.push_back(static_cast<int64_t>(values.size()));
    out.shape.insert(out.shape.end(), values.begin(), values.end());
  };
  append(uploads.layout());
  append(out.pass.lens->cu);
  append(out.samples->cu);
  return out;
}

}  // namespace matvlm
