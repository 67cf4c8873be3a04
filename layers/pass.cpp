#include "layers/pass.h"

#include <algorithm>
#include <utility>

namespace matvlm {
namespace {

int64_t mamba_channels(const TextConfig& c) { return (c.heads + 2 * c.kv_heads) * c.head_dim; }

// Copies row `from` of src to row `to` of dst; rows are the leading dimension.
void copy_slot(Context& ctx, const Tensor& src, int64_t from, const Tensor& dst, int64_t to) {
  dst.slice_rows(to, to + 1).copy_from(ctx, src.slice_rows(from, from + 1));
}

void start_pass(UploadBatch& uploads, std::vector<int64_t> cu, const std::vector<int64_t>& first_position, Pass& pass) {
  pass.lens = make_seqlens(uploads, std::move(cu));
  std::vector<int32_t> positions(static_cast<size_t>(pass.lens->tokens()));
  for (int64_t b = 0; b < pass.lens->batch(); ++b) {
    const int64_t begin = pass.lens->cu[static_cast<size_t>(b)];
    for (int64_t i = 0; i < pass.lens->length(b); ++i) {
      const int64_t offset = first_position.empty() ? 0 : first_position[static_cast<size_t>(b)];
      positions[static_cast<size_t>(begin + i)] = static_cast<int32_t>(offset + i);
    }
  }
  uploads.add(positions, &pass.positions);
}

}  // namespace

DecodeState::DecodeState(Context& ctx, const ModelConfig& config, DType dtype, int64_t slots, int64_t capacity,
                         const KvPages& pages)
    : config_(config),
      capacity_(capacity),
      layers_(static_cast<size_t>(config.text.layers)),
      length_(static_cast<size_t>(slots), 0),
      last_begin_(static_cast<size_t>(slots), 0),
      last_count_(static_cast<size_t>(slots), 0) {
  check(slots > 0 && capacity > 0, "[decode] found ", slots, " slots of ", capacity,
        " tokens, expected positive sizes");
  const TextConfig& c = config.text;
  int64_t attention_layers = 0;
  for (int64_t i = 0; i < c.layers; ++i) {
    LayerState& s = layers_[static_cast<size_t>(i)];
    if (config.mamba.contains(i)) {
      s.conv = Tensor::zeros(ctx, {slots, config.mamba.conv_width - 1, mamba_channels(c)}, dtype);
      s.ssm = Tensor::zeros(ctx, {slots, c.heads, c.head_dim, c.head_dim}, DType::f32);
    } else {
      s.kv_layer = attention_layers++;
    }
  }
  if (attention_layers > 0) kv_ = KvCache({attention_layers, slots, capacity, c.kv_heads * c.head_dim}, dtype, pages);
}

void DecodeState::reset(Context& ctx, int64_t slot) {
  check(slot >= 0 && slot < slots(), "[decode] slot ", slot, " of ", slots());
  const auto s = static_cast<size_t>(slot);
  length_[s] = 0;
  last_count_[s] = 0;
  for (LayerState& layer : layers_) {
    if (!layer.conv.defined()) continue;
    layer.conv.slice_rows(slot, slot + 1).zero(ctx);
    layer.ssm.slice_rows(slot, slot + 1).zero(ctx);
  }
  kv_.truncate(slot, 0);
}

void DecodeState::begin_pass(Context& ctx, const Seqlens& lens, const std::vector<int64_t>& slots, bool keep_states) {
  check(static_cast<int64_t>(slots.size()) == lens.batch(), "[decode] found ", slots.size(), " slots for ",
        lens.batch(), " sequences");
  for (int64_t b = 0; b < lens.batch(); ++b) {
    const int64_t slot = slots[static_cast<size_t>(b)];
    check(slot >= 0 && slot < this->slots(), "[decode] slot ", slot, " of ", this->slots());
    check(std::count(slots.begin(), slots.end(), slot) == 1, "[decode] slot ", slot, " appears twice in one pass");
    check(length(slot) + lens.length(b) <= capacity_, "[decode] slot ", slot, ": found ", length(slot) + lens.length(b),
          " tokens, expected at most ", capacity_);
  }
  kv_.begin_pass(ctx, lens, slots);
  pass_slots_ = slots;
  pass_cu_ = lens.cu;
  kept_ = keep_states;
  const TextConfig& c = config_.text;
  for (LayerState& layer : layers_) {
    layer.conv_every = layer.ssm_every = layer.conv_before = layer.ssm_before = Tensor();
    if (!keep_states || !layer.conv.defined()) continue;
    layer.conv_before = layer.conv.clone(ctx);
    layer.ssm_before = layer.ssm.clone(ctx);
    layer.conv_every = Tensor::empty(ctx, {lens.tokens(), layer.conv.dim(1), layer.conv.dim(2)}, layer.conv.dtype());
    layer.ssm_every = Tensor::empty(ctx, {lens.tokens(), c.heads, c.head_dim, c.head_dim}, DType::f32);
  }
}

void DecodeState::end_pass() {
  kv_.end_pass();
  std::fill(last_count_.begin(), last_count_.end(), 0);
  for (size_t b = 0; b < pass_slots_.size(); ++b) {
    const auto slot = static_cast<size_t>(pass_slots_[b]);
    const int64_t count = pass_cu_[b + 1] - pass_cu_[b];
    length_[slot] += count;
    last_begin_[slot] = pass_cu_[b];
    last_count_[slot] = kept_ ? count : 0;
  }
}

void DecodeState::rollback(Context& ctx, int64_t slot, int64_t tokens) {
  check(slot >= 0 && slot < slots(), "[decode] slot ", slot, " of ", slots());
  const auto s = static_cast<size_t>(slot);
  check(tokens >= 0 && tokens <= last_count_[s], "[decode] slot ", slot, ": roll-back by ", tokens,
        " tokens, the last pass kept ", last_count_[s]);
  if (tokens == 0) return;
  const int64_t kept = last_count_[s] - tokens;
  for (LayerState& layer : layers_) {
    if (!layer.conv.defined()) continue;
    if (kept == 0) {
      copy_slot(ctx, layer.conv_before, slot, layer.conv, slot);
      copy_slot(ctx, layer.ssm_before, slot, layer.ssm, slot);
    } else {
      copy_slot(ctx, layer.conv_every, last_begin_[s] + kept - 1, layer.conv, slot);
      copy_slot(ctx, layer.ssm_every, last_begin_[s] + kept - 1, layer.ssm, slot);
    }
  }
  length_[s] -= tokens;
  kv_.truncate(slot, length_[s]);
  last_count_[s] = kept;
}

void make_pass(UploadBatch& uploads, std::vector<int64_t> cu, Pass& pass) {
  start_pass(uploads, std::move(cu), {}, pass);
}

Pass make_pass(Context& ctx, std::vector<int64_t> cu) {
  UploadBatch uploads;
  Pass pass;
  make_pass(uploads, std::move(cu), pass);
  uploads.send(ctx);
  return pass;
}

Pass make_decode_pass(Context& ctx, std::vector<int64_t> cu, DecodeState& state, std::vector<int64_t> slots,
                      bool keep_states) {
  check(slots.size() + 1 == cu.size(), "[decode] found ", slots.size(), " slots for ",
        static_cast<int64_t>(cu.size()) - 1, " sequences");
  std::vector<int64_t> first;
  for (const int64_t slot : slots) {
    check(slot >= 0 && slot < state.slots(), "[decode] slot ", slot, " of ", state.slots());
    first.push_back(state.length(slot));
  }
  UploadBatch uploads;
  Pass pass;
  start_pass(uploads, std::move(cu), first, pass);
  uploads.add(slots, &pass.device_slots);
  uploads.send(ctx);
  state.begin_pass(ctx, *pass.lens, slots, keep_states);
  pass.state = &state;
  pass.slots = std::move(slots);
  return pass;
}

}  // namespace matvlm
