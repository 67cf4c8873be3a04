// The list of a model's tensors.
#include "layers/tensors.h"

#include <set>

namespace matvlm {
namespace {

const std::string kText = "language_model.";
const std::string kLayers = kText + "model.layers.";

void add_affine(std::vector<ModelTensor>& out, const std::string& prefix, Shape weight, bool bias) {
  const int64_t rows = weight[0];
  out.push_back({prefix + ".weight", std::move(weight)});
  if (bias) out.push_back({prefix + ".bias", {rows}});
}

void add_norm(std::vector<ModelTensor>& out, const std::string& prefix, int64_t width, NormKind kind) {
  add_affine(out, prefix, {width}, kind == NormKind::layer_norm);
}

void add_vision(std::vector<ModelTensor>& out, const ModelConfig& config) {
  const VisionConfig& v = *config.vision;
  const std::string base = kVisionPrefix;
  add_affine(out, base + "embeddings.patch_embedding", {v.hidden, 3, v.patch_size, v.patch_size}, true);
  out.push_back({base + "embeddings.position_embedding.weight", {v.patches(), v.hidden}});
  for (int64_t i = 0; i < v.blocks_used(); ++i) {
    const std::string layer = cat(base, "encoder.layers.", i, ".");
    add_norm(out, layer + "layer_norm1", v.hidden, NormKind::layer_norm);
    for (const char* part : {"q_proj", "k_proj", "v_proj", "out_proj"}) {
      add_affine(out, layer + "self_attn." + part, {v.hidden, v.hidden}, true);
    }
    add_norm(out, layer + "layer_norm2", v.hidden, NormKind::layer_norm);
    add_affine(out, layer + "mlp.fc1", {v.mlp, v.hidden}, true);
    add_affine(out, layer + "mlp.fc2", {v.hidden, v.mlp}, true);
  }
  add_affine(out, "connector._connector.0", {config.text.hidden, v.hidden}, true);
  add_affine(out, "connector._connector.2", {config.text.hidden, config.text.hidden}, true);
}

void add_attention(std::vector<ModelTensor>& out, const TextConfig& c, const std::string& layer) {
  const int64_t q = c.heads * c.head_dim;
  const int64_t kv = c.kv_heads * c.head_dim;
  add_affine(out, layer + "self_attn.q_proj", {q, c.hidden}, c.block.qkv_bias);
  add_affine(out, layer + "self_attn.k_proj", {kv, c.hidden}, c.block.qkv_bias);
  add_affine(out, layer + "self_attn.v_proj", {kv, c.hidden}, c.block.qkv_bias);
  add_affine(out, layer + attention_output_name(c), {c.hidden, q}, c.block.dense_bias);
}

void add_mlp(std::vector<ModelTensor>& out, const TextConfig& c, const std::string& layer) {
  if (c.block.mlp == MlpKind::swiglu) {
    add_affine(out, layer + "mlp.gate_proj", {c.mlp, c.hidden}, c.block.mlp_bias);
    add_affine(out, layer + "mlp.up_proj", {c.mlp, c.hidden}, c.block.mlp_bias);
    add_affine(out, layer + "mlp.down_proj", {c.hidden, c.mlp}, c.block.mlp_bias);
    return;
  }
  add_affine(out, layer + "mlp.fc1", {c.mlp, c.hidden}, c.block.mlp_bias);
  add_affine(out, layer + "mlp.fc2", {c.hidden, c.mlp}, c.block.mlp_bias);
}

}  // namespace

std::string text_layer_prefix(int64_t layer) { return cat(kLayers, layer, "."); }

std::string attention_output_name(const TextConfig& config) {
  return config.model_type == "phi" ? "self_attn.dense" : "self_attn.o_proj";
}

std::vector<ModelTensor> mamba_tensors(const ModelConfig& config, int64_t layer) {
  const TextConfig& c = config.text;
  const MambaConfig& m = config.mamba;
  const int64_t inner = c.heads * c.head_dim;
  const int64_t group = c.kv_heads * c.head_dim;
  const int64_t channels = inner + 2 * group;
  const std::string base = text_layer_prefix(layer) + "mamba.";
  std::vector<ModelTensor> out;
  add_affine(out, base + "in_proj", {2 * inner + 2 * group + c.heads, c.hidden}, m.is_bias);
  add_affine(out, base + "conv1d", {channels, 1, m.conv_width}, true);
  for (const char* name : {"A_log", "D", "dt_bias"}) out.push_back({base + name, {c.heads}, true});
  out.push_back({base + "norm.weight", {inner}});
  add_affine(out, base + "out_proj", {c.hidden, inner}, m.is_bias);
  return out;
}

std::vector<ModelTensor> model_tensors(const ModelConfig& config) {
  const TextConfig& c = config.text;
  std::vector<ModelTensor> out;
  if (config.vision) add_vision(out, config);
  out.push_back({"language_model.model.embed_tokens.weight", {c.vocab, c.hidden}});
  for (int64_t i = 0; i < c.layers; ++i) {
    const std::string layer = text_layer_prefix(i);
    add_norm(out, layer + "input_layernorm", c.hidden, c.block.norm);
    if (config.mamba.contains(i)) {
      for (ModelTensor& t : mamba_tensors(config, i)) out.push_back(std::move(t));
    } else {
      add_attention(out, c, layer);
    }
    if (!c.block.parallel) add_norm(out, layer + "post_attention_layernorm", c.hidden, c.block.norm);
    add_mlp(out, c, layer);
  }
  add_norm(out,
           c.block.norm == NormKind::layer_norm ? "language_model.model.final_layernorm" : "language_model.model.norm",
           c.hidden, c.block.norm);
  if (!c.tied_head) add_affine(out, "language_model.lm_head", {c.vocab, c.hidden}, c.head_bias);
  return out;
}

std::vector<std::string> joined_names(const std::string& first) {
  static const std::vector<std::vector<std::string>> groups = {{".q_proj.", ".k_proj.", ".v_proj."},
                                                               {".gate_proj.", ".up_proj."}};
  for (const std::vector<std::string>& group : groups) {
    const size_t at = first.find(group[0]);
    if (at == std::string::npos) continue;
    std::vector<std::string> out;
    for (const std::string& part : group) out.push_back(std::string(first).replace(at, group[0].size(), part));
    return out;
  }
  return {first};
}

bool is_unused_tensor(const ModelConfig& config, const std::string& name) {
  const std::string tower = "vision_tower._vision_tower.";
  if (name.ends_with("rotary_emb.inv_freq") || name.ends_with("position_ids")) return true;
  // A head that is the embedding may be stored a second time.
  if (config.text.tied_head && (name == "lm_head.weight" || name == kText + "lm_head.weight")) return true;
  if (!name.starts_with(tower)) return false;
  const std::string rest =
      name.starts_with(kVisionPrefix) ? name.substr(std::string(kVisionPrefix).size()) : name.substr(tower.size());
  if (rest.starts_with("post_layernorm.") || rest.starts_with("head.")) return true;
  if (!config.vision) return true;
  for (int64_t i = config.vision->blocks_used(); i < config.vision->layers; ++i) {
    if (rest.starts_with(cat("encoder.layers.", i, "."))) return true;
  }
  return false;
}

std::string name_in_source(const TensorSource& source, const std::string& name) {
  if (source.has(name)) return name;
  const std::string prefix = kVisionPrefix;
  if (name.starts_with(prefix)) {
    const std::string other = "vision_tower._vision_tower." + name.substr(prefix.size());
    if (source.has(other)) return other;
  }
  if (name.starts_with(kText) && source.has(name.substr(kText.size()))) return name.substr(kText.size());
  return "";
}

std::string export_name(const ModelConfig& config, const std::string& name) {
  return !config.vision && name.starts_with(kText) ? name.substr(kText.size()) : name;
}

void check_source(const ModelConfig& config, const TensorSource& source) {
  std::string problems;
  std::set<std::string> known;
  for (const ModelTensor& t : model_tensors(config)) {
    const std::string found = name_in_source(source, t.name);
    if (found.empty()) {
      problems += cat("; missing '", t.name, "' ", shape_string(t.shape));
      continue;
    }
    known.insert(found);
    const TensorInfo& info = source.info(found);
    if (info.shape != t.shape) {
      problems += cat("; '", found, "': found ", shape_string(info.shape), ", expected ", shape_string(t.shape));
    } else if (!info.holds_floats()) {
      problems += cat("; '", found, "': found ", info.type, ", expected F32, F16, BF16 or F64");
    }
  }
  for (const std::string& name : source.names()) {
    if (!known.contains(name) && !is_unused_tensor(config, name)) problems += cat("; unexpected '", name, "'");
  }
  check(problems.empty(), source.path(), ": tensors do not fit the config", problems);
}

bool matches_pattern(const std::string& name, const std::string& pattern) {
  size_t n = 0, p = 0, star = std::string::npos, mark = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      mark = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star != std::string::npos) {
      p = star + 1;
      n = ++mark;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace matvlm
