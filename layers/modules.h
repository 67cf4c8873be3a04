// The parts of the networks as plain structs of weights, and the functions that run them.
#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "autograd/graph.h"
#include "autograd/ops/linear.h"
#include "autograd/ops/norm_sum.h"
#include "layers/config.h"
#include "layers/pass.h"
#include "layers/weights.h"

namespace matvlm {

class DnnAttention;  // autograd/ops/attention_dnn.h

struct Affine {  // y = x W^T + b
  Weight weight, bias;
};
struct Norm {
  NormKind kind = NormKind::layer_norm;
  Weight weight, bias;
  double eps = 1e-5;
};
struct Mlp {
  MlpKind kind = MlpKind::gelu;
  Affine fc1;            // gelu only
  JoinedLinear gate_up;  // swiglu only
  Affine fc2;            // of swiglu the down projection
};
struct AttentionMixer {
  JoinedLinear qkv;
  Affine dense;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  std::vector<double> frequencies;  // of the rotary pairs; empty: no rotary (vision)
  bool causal = true;
  std::shared_ptr<DnnAttention> dnn;  // cuDNN's kernels where no decode state is; null: our own
};
struct MambaMixer {
  Affine in_proj, out_proj;  // rows of in_proj: z H*P | x K*P | B K*N | C H*N | dt H
  Weight conv_weight, conv_bias;
  Weight a_log, d, dt_bias;
  Weight norm_weight;
  double norm_eps = 1e-5;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
};
struct Block {
  BlockSpec spec;
  Norm norm;       // input_layernorm / layer_norm1
  Norm post_norm;  // sequential blocks: before the MLP
  std::variant<AttentionMixer, MambaMixer> mixer;
  Mlp mlp;
  bool is_mamba() const { return std::holds_alternative<MambaMixer>(mixer); }
};

Affine make_affine(const ModelWeights& weights, const std::string& prefix, const Shape& shape, bool bias);
// Layers of one input, `prefix` followed by each name; widths: their output features.
JoinedLinear make_joined(const ModelWeights& weights, const std::string& prefix, const std::vector<std::string>& names,
                         const std::vector<int64_t>& widths, int64_t inputs, bool bias);
Norm make_norm(const ModelWeights& weights, const std::string& prefix, int64_t width, NormKind kind, double eps);
Block make_text_block(const ModelWeights& weights, const ModelConfig& config, int64_t layer);
Block make_vision_block(const ModelWeights& weights, const VisionConfig& config, int64_t layer);

// residual: as of linear().
Var run_affine(Graph& g, const Affine& m, const Var& x, const Var& residual = {});
Var run_norm(Graph& g, const Norm& m, const Var& x);
Var run_mlp(Graph& g, const Mlp& m, const Var& x, const Var& residual = {});
// `normed` is the normed input [T, D]; `layer` addresses the decode state of the pass, if it has one.
Var run_mixer(Graph& g, const Block& block, const Var& normed, const Pass& pass, int64_t layer);

// The parts of one block's forward that others want to see.
struct BlockTrace {
  Tensor normed;  // norm(h): the mixer's input
  Tensor mixer;   // the mixer's output
};
// The residual stream between blocks, whose last terms may still have to be added: whoever reads it forms the sum, a
// norm on its way. Order and rounding are the same either way.
class Stream {
 public:
  explicit Stream(const Var& h) : pending_{{h.value()}, h} {}
  // Adds a term, whose node hands its gradient on to what is there (`last`, as residual of linear()).
  void add(const Var& term);
  Var last() const { return pending_.last.route(); }
  // The last term, which is taken out: for an op that adds it to its own output, the next term.
  Var take_last();
  // The sum, formed once.
  const Var& value(Graph& g);
  // The sum and its norm.
  SumAndNorm with_norm(Graph& g, const Norm& norm);

 private:
  PendingSum pending_;
};

// Puts the block behind `h`.
void run_block(Graph& g, const Block& block, Stream& h, const Pass& pass, int64_t layer, BlockTrace* trace = nullptr);
// The block's output when its mixer's output is already there.
Var finish_block(Graph& g, const Block& block, const Var& h, const Var& normed, const Var& mixed);

}  // namespace matvlm

extern template class std::vector<matvlm::Block>;  // in modules.cpp: its destructor alone is 5 KB
