// Forward passes of the parts; their backward passes are the ops'.
#include "layers/modules.h"

#include <cmath>

#include "autograd/ops/activation.h"
#include "autograd/ops/add.h"
#include "autograd/ops/attention.h"
#include "autograd/ops/attention_dnn.h"
#include "autograd/ops/conv1d.h"
#include "autograd/ops/gated_rms_norm.h"
#include "autograd/ops/gelu_mlp.h"
#include "autograd/ops/layer_norm.h"
#include "autograd/ops/rms_norm.h"
#include "autograd/ops/rotary.h"
#include "autograd/ops/ssd.h"

template class std::vector<matvlm::Block>;

namespace matvlm {
namespace {

AttentionMixer make_attention(const ModelWeights& weights, const TextConfig& c, const std::string& layer) {
  const std::string prefix = layer + "self_attn.";
  AttentionMixer m;
  m.heads = c.heads;
  m.kv_heads = c.kv_heads;
  m.head_dim = c.head_dim;
  m.frequencies = rope_frequencies(c);
  const int64_t q = c.heads * c.head_dim;
  const int64_t kv = c.kv_heads * c.head_dim;
  m.qkv = make_joined(weights, prefix, {"q_proj", "k_proj", "v_proj"}, {q, kv, kv}, c.hidden, c.block.qkv_bias);
  m.dense = make_affine(weights, layer + attention_output_name(c), {c.hidden, q}, c.block.dense_bias);
  return m;
}

MambaMixer make_mamba(const ModelWeights& weights, const ModelConfig& config, const std::string& prefix) {
  const TextConfig& c = config.text;
  const int64_t inner = c.heads * c.head_dim;
  const int64_t group = c.kv_heads * c.head_dim;
  const int64_t channels = inner + 2 * group;
  MambaMixer m;
  m.heads = c.heads;
  m.kv_heads = c.kv_heads;
  m.head_dim = c.head_dim;
  m.norm_eps = config.mamba.norm_eps;
  m.in_proj =
      make_affine(weights, prefix + "in_proj", {2 * inner + 2 * group + c.heads, c.hidden}, config.mamba.is_bias);
  m.out_proj = make_affine(weights, prefix + "out_proj", {c.hidden, inner}, config.mamba.is_bias);
  m.conv_weight = weights.get(prefix + "conv1d.weight", {channels, 1, config.mamba.conv_width});
  m.conv_bias = weights.get(prefix + "conv1d.bias", {channels});
  m.a_log = weights.get(prefix + "A_log", {c.heads});
  m.d = weights.get(prefix + "D", {c.heads});
  m.dt_bias = weights.get(prefix + "dt_bias", {c.heads});
  m.norm_weight = weights.get(prefix + "norm.weight", {inner});
  return m;
}

Mlp make_mlp(const ModelWeights& weights, const std::string& prefix, int64_t hidden, int64_t inner,
             const BlockSpec& spec) {
  Mlp m;
  m.kind = spec.mlp;
  if (spec.mlp == MlpKind::swiglu) {
    m.gate_up = make_joined(weights, prefix, {"gate_proj", "up_proj"}, {inner, inner}, hidden, spec.mlp_bias);
    m.fc2 = make_affine(weights, prefix + "down_proj", {hidden, inner}, spec.mlp_bias);
  } else {
    m.fc1 = make_affine(weights, prefix + "fc1", {inner, hidden}, spec.mlp_bias);
    m.fc2 = make_affine(weights, prefix + "fc2", {hidden, inner}, spec.mlp_bias);
  }
  return m;
}

Var run_attention(Graph& g, const AttentionMixer& m, const Var& x, const Pass& pass, int64_t layer) {
  const int64_t width = m.heads * m.head_dim;
  const int64_t kv_width = m.kv_heads * m.head_dim;
  Var qkv = linear_joined(g, x, m.qkv);
  // The product is in no other use, so q and k are turned where they are. Of the two attentions, cuDNN's does not turn
  // their gradients back.
  RotaryTurn turned;
  if (!m.frequencies.empty() && m.dnn != nullptr) {
    qkv = rotary_in_place(g, qkv, m.heads + m.kv_heads, m.head_dim, m.frequencies, pass.positions);
  } else if (!m.frequencies.empty()) {
    turned = turn_in_place(g, qkv, m.heads + m.kv_heads, m.head_dim, m.frequencies, pass.positions);
  }
  const Var q = g.slice_cols(qkv, 0, width);
  const Var k = g.slice_cols(qkv, width, width + kv_width);
  const Var v = g.slice_cols(qkv, width + kv_width, width + 2 * kv_width);
  const AttentionShape shape{m.heads, m.kv_heads, m.head_dim, m.causal,
                             1.0 / std::sqrt(static_cast<double>(m.head_dim))};
  if (pass.state != nullptr) {
    const int64_t kv_layer = pass.state->layer(layer).kv_layer;
    return g.constant(attention_cached(g.ctx(), shape, pass.state->kv(), kv_layer, q.value(), k.value(), v.value()));
  }
  if (m.dnn != nullptr) return attention_dnn(g, m.dnn, shape, q, k, v, pass.lens);
  return attention(g, shape, q, k, v, pass.lens, turned);
}

// From in_proj's output to the scan's.
Var run_mamba_scan(Graph& g, const MambaMixer& m, const Var& zxbcdt, const Pass& pass, int64_t layer) {
  const int64_t inner = m.heads * m.head_dim;
  const int64_t group = m.kv_heads * m.head_dim;
  const int64_t channels = inner + 2 * group;
  const Var xbc = g.slice_cols(zxbcdt, inner, inner + channels);
  const Var dt = g.slice_cols(zxbcdt, inner + channels, inner + channels + m.heads);

  StateIo conv_io, ssm_io;
  const bool decoding = pass.state != nullptr;
  if (decoding) {
    LayerState& s = pass.state->layer(layer);
    conv_io = {s.conv, s.conv, s.conv_every, pass.device_slots};
    ssm_io = {s.ssm, s.ssm, s.ssm_every, pass.device_slots};
  }
  const Var convolved =
      causal_conv1d_silu(g, xbc, m.conv_weight, m.conv_bias, pass.lens, decoding ? &conv_io : nullptr);
  const Var x = g.slice_cols(convolved, 0, group);
  const Var b = g.slice_cols(convolved, group, 2 * group);
  const Var c = g.slice_cols(convolved, 2 * group, channels);
  const SsdShape shape{m.heads, m.kv_heads, m.kv_heads, m.heads, m.head_dim, m.head_dim};
  return ssd(g, shape, x, b, c, dt, m.a_log, m.d, m.dt_bias, pass.lens, decoding ? &ssm_io : nullptr);
}

// From the scan's output, gated by z, to out_proj's input.
Var run_mamba_norm(Graph& g, const MambaMixer& m, const Var& y, const Var& zxbcdt) {
  const Var z = g.slice_cols(zxbcdt, 0, m.heads * m.head_dim);
  return gated_rms_norm(g, y, z, m.norm_weight, m.head_dim, m.norm_eps);
}

// With `input_again`, which makes u again, neither u nor the norm's output is kept for backward. Where anything of the
// model is computed again to save memory, nothing between the two projections is: the convolution and the scan are a
// small part of the mixer's time and half of what it would keep.
Var run_mamba(Graph& g, const MambaMixer& m, const Var& u, const Pass& pass, int64_t layer,
              const Graph::Remake& input_again) {
  const Var zxbcdt = linear(g, u, m.in_proj.weight, m.in_proj.bias, {}, input_again);
  if (!input_again) return run_mamba_norm(g, m, run_mamba_scan(g, m, zxbcdt, pass, layer), zxbcdt);
  if (pass.recompute.what == Recompute::none) {
    const Var y = run_mamba_scan(g, m, zxbcdt, pass, layer);
    return g.recompute(
        {y, zxbcdt}, [m](Graph& inner, const std::vector<Var>& in) { return run_mamba_norm(inner, m, in[0], in[1]); });
  }
  const Graph::Block inside = [m, pass, layer](Graph& inner, const std::vector<Var>& in) {
    return run_mamba_norm(inner, m, run_mamba_scan(inner, m, in[0], pass, layer), in[0]);
  };
  return g.recompute({zxbcdt}, inside);
}

// The mixer up to its last projection. normed_again: makes `normed` again, see run_mamba.
Var run_mixer_inside(Graph& g, const Block& block, const Var& normed, const Pass& pass, int64_t layer,
                     const Graph::Remake& normed_again = {}) {
  if (const auto* mamba = std::get_if<MambaMixer>(&block.mixer)) {
    return run_mamba(g, *mamba, normed, pass, layer, normed_again);
  }
  return run_attention(g, std::get<AttentionMixer>(block.mixer), normed, pass, layer);
}

const Affine& last_projection(const Block& block) {
  if (const auto* mamba = std::get_if<MambaMixer>(&block.mixer)) return mamba->out_proj;
  return std::get<AttentionMixer>(block.mixer).dense;
}

// Products of fp8 matrices do not: there the sum is left to the norm behind it.
bool adds_residual(const Affine& m) { return m.weight.fp8 == nullptr; }

// norm(x) once more, for backward.
Graph::Remake norm_again(const Norm& norm, const Var& x) {
  return [norm, value = x.value()](Context& ctx) {
    Graph g(ctx, false);
    return std::vector<Tensor>{run_norm(g, norm, g.constant(value)).value()};
  };
}

// input_again: nothing inside the MLP is kept for backward, nor x, whose value it makes again.
Var run_mlp(Graph& g, const Mlp& m, const Var& x, const Var& residual, const Graph::Remake& input_again) {
  if (m.kind == MlpKind::gelu) {
    return gelu_mlp(g, x, {m.fc1.weight, m.fc1.bias, m.fc2.weight, m.fc2.bias}, residual, input_again);
  }
  // By value: the closure outlives this call. The structs hold handles only.
  const Graph::Block gated = [m](Graph& inner, const std::vector<Var>& in) {
    const Var both = linear_joined(inner, in[0], m.gate_up);
    const int64_t width = both.value().cols() / 2;
    return swiglu(inner, inner.slice_cols(both, 0, width), inner.slice_cols(both, width, 2 * width));
  };
  return run_affine(g, m.fc2, input_again ? g.recompute({x}, gated, input_again) : gated(g, {x}), residual);
}

// The mixer with its last projection. What it computes before that is kept for backward, or not (`again`). The last
// projection is outside of what is computed again: a frozen one keeps nothing of its input.
Var run_block_mixer(Graph& g, const Block& block, const Var& h, const Var& normed, const Pass& pass, int64_t layer,
                    bool again, const Var& residual) {
  const Affine& last = last_projection(block);
  if (!g.recording()) return run_affine(g, last, run_mixer_inside(g, block, normed, pass, layer), residual);
  const Graph::Remake normed_again = norm_again(block.norm, h);
  if (!again) return run_affine(g, last, run_mixer_inside(g, block, normed, pass, layer, normed_again), residual);
  const Graph::Block inside = [block, pass, layer](Graph& inner, const std::vector<Var>& in) {
    return run_mixer_inside(inner, block, in[0], pass, layer);
  };
  return run_affine(g, last, g.recompute({normed}, inside, normed_again), residual);
}

}  // namespace

Affine make_affine(const ModelWeights& weights, const std::string& prefix, const Shape& shape, bool bias) {
  Affine m;
  m.weight = weights.get(prefix + ".weight", shape);
  if (bias) m.bias = weights.get(prefix + ".bias", {shape[0]});
  return m;
}

JoinedLinear make_joined(const ModelWeights& weights, const std::string& prefix, const std::vector<std::string>& names,
                         const std::vector<int64_t>& widths, int64_t inputs, bool bias) {
  JoinedLinear m;
  std::vector<std::string> matrices, biases;
  for (size_t i = 0; i < names.size(); ++i) {
    const Affine part = make_affine(weights, prefix + names[i], {widths[i], inputs}, bias);
    m.parts.push_back({part.weight, part.bias});
    matrices.push_back(prefix + names[i] + ".weight");
    biases.push_back(prefix + names[i] + ".bias");
  }
  m.w = weights.joined(matrices);
  m.fp8 = weights.fp8_joined(matrices);
  if (bias) m.bias = weights.joined(biases);
  return m;
}

Norm make_norm(const ModelWeights& weights, const std::string& prefix, int64_t width, NormKind kind, double eps) {
  Norm m;
  m.kind = kind;
  m.eps = eps;
  m.weight = weights.get(prefix + ".weight", {width});
  if (kind == NormKind::layer_norm) m.bias = weights.get(prefix + ".bias", {width});
  return m;
}

Block make_text_block(const ModelWeights& weights, const ModelConfig& config, int64_t layer) {
  const TextConfig& c = config.text;
  const std::string prefix = text_layer_prefix(layer);
  Block block;
  block.spec = c.block;
  block.norm = make_norm(weights, prefix + "input_layernorm", c.hidden, c.block.norm, c.norm_eps);
  if (!c.block.parallel) {
    block.post_norm = make_norm(weights, prefix + "post_attention_layernorm", c.hidden, c.block.norm, c.norm_eps);
  }
  if (config.mamba.contains(layer)) {
    block.mixer = make_mamba(weights, config, prefix + "mamba.");
  } else {
    block.mixer = make_attention(weights, c, prefix);
  }
  block.mlp = make_mlp(weights, prefix + "mlp.", c.hidden, c.mlp, c.block);
  return block;
}

Block make_vision_block(const ModelWeights& weights, const VisionConfig& config, int64_t layer) {
  const std::string prefix = cat(kVisionPrefix, "encoder.layers.", layer, ".");
  const int64_t d = config.hidden;
  Block block;
  block.spec.parallel = false;
  block.norm = make_norm(weights, prefix + "layer_norm1", d, NormKind::layer_norm, config.norm_eps);
  block.post_norm = make_norm(weights, prefix + "layer_norm2", d, NormKind::layer_norm, config.norm_eps);
  AttentionMixer m;
  m.heads = m.kv_heads = config.heads;
  m.head_dim = d / config.heads;
  m.causal = false;
  m.qkv = make_joined(weights, prefix + "self_attn.", {"q_proj", "k_proj", "v_proj"}, {d, d, d}, d, true);
  m.dense = make_affine(weights, prefix + "self_attn.out_proj", {d, d}, true);
  block.mixer = m;
  block.mlp = make_mlp(weights, prefix + "mlp.", d, config.mlp, block.spec);
  return block;
}

Var run_affine(Graph& g, const Affine& m, const Var& x, const Var& residual) {
  return linear(g, x, m.weight, m.bias, residual);
}

Var run_norm(Graph& g, const Norm& m, const Var& x) {
  if (m.kind == NormKind::rms_norm) return rms_norm(g, x, m.weight, m.eps);
  return layer_norm(g, x, m.weight, m.bias, m.eps);
}

Var run_mlp(Graph& g, const Mlp& m, const Var& x, const Var& residual) { return run_mlp(g, m, x, residual, {}); }

Var run_mixer(Graph& g, const Block& block, const Var& normed, const Pass& pass, int64_t layer) {
  return run_affine(g, last_projection(block), run_mixer_inside(g, block, normed, pass, layer));
}

void Stream::add(const Var& term) {
  pending_.terms.push_back(term.value());
  pending_.last = term;
}

Var Stream::take_last() {
  pending_.terms.pop_back();
  return pending_.last;
}

const Var& Stream::value(Graph& g) {
  const Var sum = form_sum(g, pending_);
  pending_ = {{sum.value()}, sum};
  return pending_.last;
}

SumAndNorm Stream::with_norm(Graph& g, const Norm& m) {
  const SumAndNorm out = m.kind == NormKind::rms_norm ? add_rms_norm(g, pending_, m.weight, m.eps)
                                                      : add_layer_norm(g, pending_, m.weight, m.bias, m.eps);
  pending_ = {{out.sum.value()}, out.sum};
  return out;
}

void run_block(Graph& g, const Block& block, Stream& h, const Pass& pass, int64_t layer, BlockTrace* trace) {
  const Recompute again = g.recording() ? pass.recompute.at(layer) : Recompute::none;
  const bool mixer_again = again == Recompute::mixers || again == Recompute::blocks;
  const bool mlp_again = again == Recompute::mlp || again == Recompute::blocks;
  SumAndNorm in = h.with_norm(g, block.norm);
  // The product adds the stream itself where it can and nobody wants its own output.
  const bool mixer_adds = trace == nullptr && adds_residual(last_projection(block));
  const Var residual = mixer_adds ? in.sum : h.last();
  const Var mixed = run_block_mixer(g, block, in.sum, in.normed, pass, layer, mixer_again, residual);
  if (trace != nullptr) *trace = {in.normed.value(), mixed.value()};
  if (mixer_adds) {
    h = Stream(mixed);
  } else {
    h.add(mixed);
  }
  if (!block.spec.parallel) in = h.with_norm(g, block.post_norm);
  const Norm& norm = block.spec.parallel ? block.norm : block.post_norm;
  const Graph::Remake normed_again = mlp_again ? norm_again(norm, in.sum) : Graph::Remake();
  // The last term of a sum that is still to be formed, which is then the norm's of the next block: no pass of its own.
  const Var added = adds_residual(block.mlp.fc2) ? h.take_last() : h.last();
  h.add(run_mlp(g, block.mlp, in.normed, added, normed_again));
}

// The same sums as those of a traced run_block.
Var finish_block(Graph& g, const Block& block, const Var& h, const Var& normed, const Var& mixed) {
  const bool adds = adds_residual(block.mlp.fc2);
  if (block.spec.parallel) {
    return adds ? add(g, {h, run_mlp(g, block.mlp, normed, mixed)}) : add(g, {h, mixed, run_mlp(g, block.mlp, normed)});
  }
  const Var middle = add(g, {h, mixed});
  const Var x = run_norm(g, block.post_norm, middle);
  return adds ? run_mlp(g, block.mlp, x, middle) : add(g, {middle, run_mlp(g, block.mlp, x)});
}

}  // namespace matvlm
