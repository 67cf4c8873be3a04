// The vision-language model: SigLIP tower, connector, language model. The same structs serve teacher and student; which
// weights they share is decided where the weights are made.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "autograd/ops/embed_splice.h"
#include "layers/modules.h"
#include "layers/rows.h"

namespace matvlm {

struct VisionTower {
  VisionConfig config;
  Weight patch_weight, patch_bias, position;
  std::vector<Block> blocks;  // those that run: config.blocks_used()
};
struct Connector {
  Affine fc1, fc2;
};
struct LanguageModel {
  TextConfig config;
  Weight embed;
  std::vector<Block> blocks;
  Norm final_norm;
  Affine head;
};
struct Vlm {
  ModelConfig config;
  std::optional<VisionTower> vision;
  Connector connector;  // with a vision tower
  LanguageModel text;
};

Vlm make_vlm(const ModelWeights& weights, const ModelConfig& config);

// Attention of all layers by cuDNN (attention_dnn.h); null: by our kernels. Decoding has kernels of its own.
void set_attention_backend(Vlm& model, const std::shared_ptr<DnnAttention>& dnn);

// images: [n, 3, S, S] -> features [n * patches, vision width], no final norm, all patches (the select strategy is
// applied where rows are spliced).
Var run_vision(Graph& g, const VisionTower& tower, const Tensor& images, const SeqlensPtr& lens = nullptr);
// Boundaries of the patches of n images.
std::vector<int64_t> vision_boundaries(const VisionConfig& config, int64_t n);
Var run_connector(Graph& g, const Connector& connector, const Var& features);
// Hidden states of the spliced rows; `image_tokens` (the connector's output) may be undefined without images.
Var run_embedding(Graph& g, const LanguageModel& model, const Var& image_tokens, const SplicedRows& rows);
Var run_embedding(Graph& g, const LanguageModel& model, const Var& image_tokens, const SpliceIndex& index);

// What a caller may want of a pass over the blocks.
struct TextTrace {
  std::vector<int64_t> layers;            // layers whose parts to keep, ascending
  bool keep_inputs = false;               // also h before each of them (and the output after)
  std::vector<BlockTrace> blocks;         // as `layers`
  std::vector<Tensor> inputs;             // h before each of `layers`, when keep_inputs
  std::vector<Tensor> outputs;            // h after each of `layers`, when keep_inputs
  std::vector<Tensor>* hidden = nullptr;  // all hidden states: input of layer 0, output of each layer
};
// The blocks, without the final norm: hidden states [T, D]. With pass.state the states advance.
Var run_blocks(Graph& g, const LanguageModel& model, const Var& h, const Pass& pass, TextTrace* trace = nullptr);
// run_blocks, then the final norm.
Var run_text(Graph& g, const LanguageModel& model, const Var& h, const Pass& pass, TextTrace* trace = nullptr);

}  // namespace matvlm
