// What one pass over a packed row of tokens needs besides the values: sample boundaries, positions, and, when decoding,
// the state that grows with the tokens.
#pragma once

#include <vector>

#include "autograd/ops/kv_cache.h"
#include "autograd/ops/state_io.h"
#include "autograd/seqlens.h"
#include "core/tensor.h"
#include "layers/config.h"

namespace matvlm {

// State of one layer for S slots. Keys and values of the attention layers lie in DecodeState::kv, the rest is of Mamba
// layers.
struct LayerState {
  int64_t kv_layer = -1;  // number among the attention layers, -1 for Mamba
  Tensor conv;            // [S, conv_width - 1, channels]
  Tensor ssm;             // f32 [S, H, P, N]
  Tensor conv_every;      // [T, ...] and [T, ...]: after each token of the last step, for rolling back
  Tensor ssm_every;
  Tensor conv_before;  // the state before the last step
  Tensor ssm_before;
};

// What a model remembers of S sequences ("slots") while it decodes. A pass appends tokens to some slots; rollback()
// takes back the last k tokens of a slot, as far as the last pass that kept its states reaches.
class DecodeState {
 public:
  // capacity: tokens a slot can hold, image tokens included. Keys and values take memory as tokens come.
  DecodeState(Context& ctx, const ModelConfig& config, DType dtype, int64_t slots, int64_t capacity,
              const KvPages& pages = {});

  LayerState& layer(int64_t i) { return layers_[static_cast<size_t>(i)]; }
  const KvCache& kv() const { return kv_; }
  int64_t length(int64_t slot) const { return length_[static_cast<size_t>(slot)]; }
  int64_t capacity() const { return capacity_; }
  int64_t slots() const { return static_cast<int64_t>(length_.size()); }

  // Empties a slot, so that it can take another sequence.
  void reset(Context& ctx, int64_t slot);
  // Forgets the last `tokens` tokens of `slot`. Error when the last pass did not keep its states or was shorter.
  void rollback(Context& ctx, int64_t slot, int64_t tokens);

  // Called by the language model around a pass over `lens` tokens of `slots`.
  void begin_pass(Context& ctx, const Seqlens& lens, const std::vector<int64_t>& slots, bool keep_states);
  void end_pass();

 private:
  const ModelConfig config_;
  int64_t capacity_;
  std::vector<LayerState> layers_;
  KvCache kv_;
  std::vector<int64_t> length_;
  // The last pass, for roll-back: per slot where its tokens start in `every` and how many may still be taken back.
  std::vector<int64_t> last_begin_, last_count_;
  std::vector<int64_t> pass_slots_, pass_cu_;
  bool kept_ = false;
};

// What backward computes again instead of keeping it from forward: the inside of the MLP, that of the mixer up to its
// last projection, or both, with the norms, so that only the residual stream is kept. `none`: norms and what they make
// are still computed again, which costs next to nothing. `mlp`: also the convolution and the scan of Mamba mixers, in
// all layers, which cost little time and much memory.
enum class Recompute { none, mlp, mixers, blocks };

struct RecomputeSpec {
  Recompute what = Recompute::none;
  int64_t every = 1;  // in the layers 0, every, 2 every, ...
  // and of these in `layers` of each `of`, spread evenly: in all as long as both are equal.
  int64_t layers = 1, of = 1;

  Recompute at(int64_t layer) const {
    const bool chosen = layer % every == 0 && (layer + 1) * layers / of > layer * layers / of;
    return chosen ? what : Recompute::none;
  }
  // How many of the first n layers recompute.
  int64_t count(int64_t n) const {
    int64_t found = 0;
    for (int64_t i = 0; i < n; ++i) found += at(i) != Recompute::none ? 1 : 0;
    return found;
  }
};

struct Pass {
  SeqlensPtr lens;
  Tensor positions;  // i32 [T]: index of each token in its sample
  DecodeState* state = nullptr;
  std::vector<int64_t> slots;  // with state: slot of each sample
  Tensor device_slots;         // i64 [B]
  RecomputeSpec recompute;     // of the language model's blocks
};

// Positions 0..n-1 per sample.
Pass make_pass(Context& ctx, std::vector<int64_t> cu);
// The same into `pass`, with boundaries and positions among the uploads.
void make_pass(UploadBatch& uploads, std::vector<int64_t> cu, Pass& pass);
// Positions continue where each slot stands; calls state.begin_pass().
Pass make_decode_pass(Context& ctx, std::vector<int64_t> cu, DecodeState& state, std::vector<int64_t> slots,
                      bool keep_states = false);

}  // namespace matvlm
