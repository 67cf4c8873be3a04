#include "distill/step_flops.h"

#include <algorithm>
#include <string>

#include "distill/student.h"
#include "layers/tensors.h"

namespace matvlm {
namespace {

double as_double(int64_t x) { return static_cast<double>(x); }

struct Counter {
  const ModelConfig& config;
  const StepRows& rows;

  double positions() const { return as_double(rows.samples * rows.length); }
  double patches() const { return config.vision ? as_double(rows.images * config.vision->patches()) : 0.0; }
  bool in_layers(const std::string& name) const { return name.starts_with("language_model.model.layers."); }

  // One product with the tensor, 0 where it is no matrix of a product: tables, biases, norms, the head.
  double product(const ModelTensor& t) const {
    if (t.shape.size() < 2 || t.name.ends_with("embed_tokens.weight") || t.name.ends_with("position_embedding.weight"))
      return 0;
    const double size = 2 * as_double(shape_numel(t.shape));
    if (in_layers(t.name)) return size * positions();
    const bool seen = t.name.starts_with("vision_tower.") || t.name.starts_with("connector.");
    return seen ? size * patches() : 0.0;
  }
  // What the mixer of layer i does besides its projections.
  double mixing(const ModelConfig& model, int64_t layer) const {
    const TextConfig& c = model.text;
    const double width = as_double(c.heads * c.head_dim);
    if (model.mamba.contains(layer)) return 4 * positions() * width * as_double(c.head_dim);
    return 2 * positions() * as_double(rows.length) * width;
  }
  double layer(const ModelConfig& model, const std::vector<ModelTensor>& tensors, int64_t i) const {
    double sum = mixing(model, i);
    for (const ModelTensor& t : tensors) {
      if (t.name.starts_with(text_layer_prefix(i))) sum += product(t);
    }
    return sum;
  }
  double starting_with(const std::vector<ModelTensor>& tensors, const std::string& prefix) const {
    double sum = 0;
    for (const ModelTensor& t : tensors) {
      if (t.name.starts_with(prefix)) sum += product(t);
    }
    return sum;
  }
};

}  // namespace

StepFlops step_flops(const ModelConfig& config, const StudentConfig& student, const LossConfig& loss,
                     const StepRows& rows) {
  const Counter count{config, rows};
  ModelConfig teacher = config;
  teacher.mamba.ssm_layers.clear();
  const std::vector<ModelTensor> own = model_tensors(config);
  const std::vector<ModelTensor> plain = model_tensors(teacher);
  StepFlops out;

  double connector_gradient = 0;
  int64_t lowest = config.text.layers;  // layer whose input needs a gradient
  for (const ModelTensor& t : own) {
    if (!is_trained(student, t.name)) continue;
    out.backward += count.product(t);
    for (int64_t i = 0; i < lowest; ++i) {
      if (t.name.starts_with(text_layer_prefix(i))) lowest = i;
    }
    if (t.name.starts_with("connector.") && rows.images > 0) lowest = 0;
    // Its second matrix hands the gradient on to the first.
    if (t.name.ends_with("connector.2.weight")) connector_gradient = count.product(t);
  }
  out.backward += connector_gradient;
  if (config.vision && rows.images > 0) {
    const double own_rows = as_double(config.vision->patches()) * as_double(config.vision->hidden);
    out.vision = count.starting_with(plain, "vision_tower.") + count.starting_with(plain, "connector.") +
                 as_double(config.vision->blocks_used()) * 4 * count.patches() * own_rows;
    if (student.tune_connector) out.student += count.starting_with(own, "connector.");
  }
  for (int64_t i = 0; i < config.text.layers; ++i) {
    const double forward = count.layer(config, own, i);
    out.teacher += count.layer(teacher, plain, i);
    out.student += forward;
    if (i >= lowest) out.backward += forward + count.mixing(config, i);
    if (!config.mamba.contains(i) || loss.layer == LayerLossKind::none) continue;
    const std::string mixer = text_layer_prefix(i) + "mamba.";
    const double projections = count.starting_with(own, mixer);
    // Forward; gradients of both matrices, of the SSD, and of the second matrix's input.
    out.layer_pass += 2 * projections + 3 * count.mixing(config, i) + count.starting_with(own, mixer + "out_proj.");
  }
  const double logits = 2 * count.positions() * as_double(config.text.hidden) * as_double(config.text.vocab);
  out.head_loss = (loss.logit == LogitLossKind::none ? 2 : 3) * logits;
  return out;
}

}  // namespace matvlm
