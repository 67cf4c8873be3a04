#include "layers/init.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "autograd/ops/random_fill.h"
#include "core/rng.h"

namespace matvlm {
namespace {

// Fills out[begin, end) uniformly in ±bound.
void fill_uniform(std::vector<float>& out, int64_t begin, int64_t end, double bound, const Rng& rng) {
#pragma omp parallel for if (end - begin > 65536)
  for (int64_t i = begin; i < end; ++i) {
    out[static_cast<size_t>(i)] = static_cast<float>(rng.uniform(static_cast<uint64_t>(i), -bound, bound));
  }
}

void copy_rows(std::vector<float>& out, int64_t begin, const std::string& name, const ValueSource& values,
               int64_t count) {
  const std::vector<float> source = values(name);
  check(static_cast<int64_t>(source.size()) == count, "[init] '", name, "': found ", source.size(),
        " values, expected ", count);
  std::copy(source.begin(), source.end(), out.begin() + begin);
}

// in_proj.weight (columns = D) or in_proj.bias (columns = 1). Where the attention has no biases the mixer's are 0.
void init_in_proj(std::vector<float>& out, const TextConfig& c, const std::string& layer, const std::string& kind,
                  int64_t columns, const ValueSource* attention, const Rng& rng) {
  fill_uniform(out, 0, static_cast<int64_t>(out.size()), 1.0 / std::sqrt(static_cast<double>(c.hidden)), rng);
  if (attention == nullptr) return;
  const int64_t inner = c.heads * c.head_dim;
  const int64_t group = c.kv_heads * c.head_dim;
  const std::pair<const char*, int64_t> parts[] = {{"v_proj", group}, {"k_proj", group}, {"q_proj", inner}};
  int64_t row = inner;
  for (const auto& [part, rows] : parts) {
    if (kind == ".bias" && !c.block.qkv_bias) {
      std::fill_n(out.begin() + row, rows, 0.0F);
    } else {
      copy_rows(out, row * columns, layer + "self_attn." + part + kind, *attention, rows * columns);
    }
    row += rows;
  }
}

double a_log(const Rng& rng, uint64_t i) { return std::log(rng.uniform(i, 1.0, 16.0)); }

// Inverse softplus of a log-uniform time step in [0.001, 0.1].
double dt_bias(const Rng& rng, uint64_t i) {
  const double dt = std::exp(rng.uniform(i, std::log(0.001), std::log(0.1)));
  return dt + std::log(-std::expm1(-dt));
}

struct RandomStart {
  double mean = 0, deviation = 0;
};

RandomStart random_start(const ModelConfig& config, const ModelTensor& tensor) {
  const std::string& name = tensor.name;
  if (name.ends_with(".bias")) return {};
  if (name.find("norm") != std::string::npos) return {1.0, 0.0};
  const bool table = name.ends_with("embed_tokens.weight") || name.ends_with("position_embedding.weight");
  const int64_t fan_in = shape_numel(tensor.shape) / tensor.shape[0];
  double deviation = table ? 0.02 : 1.0 / std::sqrt(static_cast<double>(fan_in));
  const bool in_tower = name.starts_with("vision_tower");
  if (name.ends_with("mlp.fc2.weight") || name.ends_with(".dense.weight") || name.ends_with(".o_proj.weight") ||
      name.ends_with("out_proj.weight") || name.ends_with("down_proj.weight")) {
    const int64_t layers = in_tower && config.vision ? config.vision->layers : config.text.layers;
    deviation /= std::sqrt(2.0 * static_cast<double>(layers));
  }
  return {0.0, deviation};
}

}  // namespace

std::vector<float> init_mamba_tensor(const ModelConfig& config, int64_t layer, const ModelTensor& tensor,
                                     const ValueSource* attention, uint64_t seed) {
  const TextConfig& c = config.text;
  const std::string prefix = text_layer_prefix(layer);
  const std::string part = tensor.name.substr((prefix + "mamba.").size());
  const Rng rng{seed, stream_of(tensor.name)};
  std::vector<float> out(static_cast<size_t>(shape_numel(tensor.shape)), 0.0F);
  const auto n = static_cast<int64_t>(out.size());
  if (part == "in_proj.weight") {
    init_in_proj(out, c, prefix, ".weight", c.hidden, attention, rng);
  } else if (part == "in_proj.bias") {
    init_in_proj(out, c, prefix, ".bias", 1, attention, rng);
  } else if (part.starts_with("conv1d.")) {
    fill_uniform(out, 0, n, 1.0 / std::sqrt(static_cast<double>(config.mamba.conv_width)), rng);
  } else if (part == "A_log" || part == "dt_bias") {
    for (int64_t i = 0; i < n; ++i) {
      const auto index = static_cast<uint64_t>(i);
      out[static_cast<size_t>(i)] = static_cast<float>(part == "A_log" ? a_log(rng, index) : dt_bias(rng, index));
    }
  } else if (part == "D" || part == "norm.weight") {
    out.assign(out.size(), 1.0F);
  } else if (attention != nullptr) {  // out_proj; a bias that the attention lacks is 0
    if (part == "out_proj.bias" && !c.block.dense_bias) return out;
    copy_rows(out, 0, prefix + attention_output_name(c) + part.substr(std::string("out_proj").size()), *attention, n);
  } else {
    fill_uniform(out, 0, n, 1.0 / std::sqrt(static_cast<double>(c.heads * c.head_dim)), rng);
  }
  return out;
}

std::vector<float> init_random_tensor(const ModelConfig& config, const ModelTensor& tensor, uint64_t seed) {
  const RandomStart start = random_start(config, tensor);
  const auto n = shape_numel(tensor.shape);
  std::vector<float> out(static_cast<size_t>(n), static_cast<float>(start.mean));
  if (start.deviation == 0) return out;
  const Rng rng{seed, stream_of(tensor.name)};
#pragma omp parallel for if (n > 65536)
  for (int64_t i = 0; i < n; ++i) {
    out[static_cast<size_t>(i)] = static_cast<float>(start.deviation * rng.normal(static_cast<uint64_t>(i)));
  }
  return out;
}

ModelWeights random_frozen_weights(Context& ctx, const ModelConfig& config, DType dtype, uint64_t seed) {
  ModelWeights out = allocate_frozen_weights(ctx, config, dtype);
  for (const ModelTensor& t : model_tensors(config)) {
    const RandomStart start = random_start(config, t);
    fill_random(ctx, out.frozen().at(t.name), start.mean, std::sqrt(3.0) * start.deviation, {seed, stream_of(t.name)});
  }
  return out;
}

}  // namespace matvlm
