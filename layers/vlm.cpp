#include "layers/vlm.h"

#include <algorithm>

#include "autograd/ops/activation.h"
#include "autograd/ops/patch_embed.h"

namespace matvlm {
namespace {

VisionTower make_tower(const ModelWeights& weights, const VisionConfig& c) {
  const std::string base = kVisionPrefix;
  VisionTower tower;
  tower.config = c;
  tower.patch_weight =
      weights.get(base + "embeddings.patch_embedding.weight", {c.hidden, 3, c.patch_size, c.patch_size});
  tower.patch_bias = weights.get(base + "embeddings.patch_embedding.bias", {c.hidden});
  tower.position = weights.get(base + "embeddings.position_embedding.weight", {c.patches(), c.hidden});
  for (int64_t i = 0; i < c.blocks_used(); ++i) tower.blocks.push_back(make_vision_block(weights, c, i));
  return tower;
}

LanguageModel make_language_model(const ModelWeights& weights, const ModelConfig& config) {
  const TextConfig& c = config.text;
  LanguageModel m;
  m.config = c;
  m.embed = weights.get("language_model.model.embed_tokens.weight", {c.vocab, c.hidden});
  for (int64_t i = 0; i < c.layers; ++i) m.blocks.push_back(make_text_block(weights, config, i));
  const bool layer_norm = c.block.norm == NormKind::layer_norm;
  m.final_norm = make_norm(weights, layer_norm ? "language_model.model.final_layernorm" : "language_model.model.norm",
                           c.hidden, c.block.norm, c.norm_eps);
  if (c.tied_head) {
    m.head.weight = m.embed;
  } else {
    m.head = make_affine(weights, "language_model.lm_head", {c.vocab, c.hidden}, c.head_bias);
  }
  return m;
}

}  // namespace

Vlm make_vlm(const ModelWeights& weights, const ModelConfig& config) {
  Vlm model;
  model.config = config;
  if (config.vision) {
    const int64_t d = config.text.hidden;
    model.vision = make_tower(weights, *config.vision);
    model.connector.fc1 = make_affine(weights, "connector._connector.0", {d, config.vision->hidden}, true);
    model.connector.fc2 = make_affine(weights, "connector._connector.2", {d, d}, true);
  }
  model.text = make_language_model(weights, config);
  return model;
}

void set_attention_backend(Vlm& model, const std::shared_ptr<DnnAttention>& dnn) {
  const auto set = [&](std::vector<Block>& blocks) {
    for (Block& block : blocks) {
      if (auto* attention = std::get_if<AttentionMixer>(&block.mixer)) attention->dnn = dnn;
    }
  };
  set(model.text.blocks);
  if (model.vision) set(model.vision->blocks);
}

std::vector<int64_t> vision_boundaries(const VisionConfig& config, int64_t n) {
  std::vector<int64_t> cu;
  for (int64_t i = 0; i <= n; ++i) cu.push_back(i * config.patches());
  return cu;
}

Var run_vision(Graph& g, const VisionTower& tower, const Tensor& images, const SeqlensPtr& lens) {
  Pass pass;
  pass.lens = lens != nullptr ? lens : make_seqlens(g.ctx(), vision_boundaries(tower.config, images.dim(0)));
  Stream h(patch_embed(g, images, tower.patch_weight, tower.patch_bias, tower.position));
  for (size_t i = 0; i < tower.blocks.size(); ++i) {
    run_block(g, tower.blocks[i], h, pass, static_cast<int64_t>(i));
  }
  return h.value(g);
}

Var run_connector(Graph& g, const Connector& connector, const Var& features) {
  const Var inner = activation(g, run_affine(g, connector.fc1, features), Activation::gelu_erf);
  return run_affine(g, connector.fc2, inner);
}

Var run_embedding(Graph& g, const LanguageModel& model, const Var& image_tokens, const SplicedRows& rows) {
  return embed_splice(g, model.embed, image_tokens, rows.source);
}

Var run_embedding(Graph& g, const LanguageModel& model, const Var& image_tokens, const SpliceIndex& index) {
  return embed_splice(g, model.embed, image_tokens, index);
}

namespace {

Stream run_stream(Graph& g, const LanguageModel& model, const Var& input, const Pass& pass, TextTrace* trace) {
  Stream h(input);
  if (trace != nullptr && trace->hidden != nullptr) trace->hidden->push_back(h.value(g).value());
  for (size_t i = 0; i < model.blocks.size(); ++i) {
    const auto layer = static_cast<int64_t>(i);
    const bool traced = trace != nullptr && std::binary_search(trace->layers.begin(), trace->layers.end(), layer);
    if (traced && trace->keep_inputs) trace->inputs.push_back(h.value(g).value());
    BlockTrace parts;
    run_block(g, model.blocks[i], h, pass, layer, traced ? &parts : nullptr);
    if (traced) trace->blocks.push_back(parts);
    if (traced && trace->keep_inputs) trace->outputs.push_back(h.value(g).value());
    if (trace != nullptr && trace->hidden != nullptr) trace->hidden->push_back(h.value(g).value());
  }
  if (pass.state != nullptr) pass.state->end_pass();
  return h;
}

}  // namespace

Var run_blocks(Graph& g, const LanguageModel& model, const Var& h, const Pass& pass, TextTrace* trace) {
  return run_stream(g, model, h, pass, trace).value(g);
}

Var run_text(Graph& g, const LanguageModel& model, const Var& h, const Pass& pass, TextTrace* trace) {
  return run_stream(g, model, h, pass, trace).with_norm(g, model.final_norm).normed;
}

}  // namespace matvlm
