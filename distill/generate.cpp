#include "distill/generate.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "autograd/ops/head_loss.h"
#include "core/rng.h"

namespace matvlm {
namespace {

// Index drawn from softmax(logits / temperature) by a uniform number in [0, 1).
int32_t draw(const float* logits, int64_t n, double temperature, double uniform) {
  const double largest = *std::max_element(logits, logits + n);
  const auto weight = [&](int64_t i) { return std::exp((static_cast<double>(logits[i]) - largest) / temperature); };
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += weight(i);
  double left = uniform * sum;
  for (int64_t i = 0; i < n; ++i) {
    left -= weight(i);
    if (left < 0) return static_cast<int32_t>(i);
  }
  return static_cast<int32_t>(n - 1);
}

bool ends(const GenerateOptions& options, int32_t token) {
  const auto& others = options.other_end_tokens;
  return token == options.end_token || std::find(others.begin(), others.end(), token) != others.end();
}

// The token after the last position of every sequence of the pass.
std::vector<int32_t> next_tokens(Context& ctx, const Vlm& model, const Tensor& hidden, const Pass& pass,
                                 const GenerateOptions& options) {
  const int64_t batch = pass.lens->batch();
  const Tensor last = Tensor::empty(ctx, {batch, hidden.cols()}, hidden.dtype());
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t t = pass.lens->cu[static_cast<size_t>(b) + 1] - 1;
    last.slice_rows(b, b + 1).copy_from(ctx, hidden.slice_rows(t, t + 1));
  }
  const Affine& head = model.text.head;
  const Tensor logits = head_logits(ctx, last, head.weight.value, head.bias.value);
  if (options.temperature <= 0) return argmax_rows(ctx, logits);
  const std::vector<float> host = logits.to_floats(ctx);
  std::vector<int32_t> out;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t slot = pass.slots[static_cast<size_t>(b)];
    const Rng rng{options.seed, stream_of("generate") + static_cast<uint64_t>(slot)};
    const double uniform = rng.uniform(static_cast<uint64_t>(pass.state->length(slot)));
    out.push_back(draw(host.data() + b * logits.cols(), logits.cols(), options.temperature, uniform));
  }
  return out;
}

}  // namespace

Tensor encode_images(Context& ctx, const Vlm& model, const std::vector<float>& pixels, int64_t n, DType dtype) {
  check(model.vision.has_value(), "[generate] the model has no vision tower");
  const int64_t s = model.vision->config.image_size;
  Graph g(ctx, false);
  const Tensor images = Tensor::from_floats(ctx, pixels, {n, 3, s, s}, dtype);
  return run_connector(g, model.connector, run_vision(g, *model.vision, images)).value();
}

std::vector<std::vector<int32_t>> generate_tokens(Context& ctx, const Vlm& model, const TokenRows& prompts,
                                                  const Tensor& image_tokens, DType dtype,
                                                  const GenerateOptions& options,
                                                  const std::function<void(int64_t, int32_t)>& on_token) {
  const ModelConfig& c = model.config;
  const int64_t limit = options.max_length > 0 ? options.max_length : c.text.max_positions;
  const SplicedRows rows = splice_rows(prompts, c.vision ? c.vision->patches() : 0,
                                       c.vision && c.vision->drop_first_patch, limit, c.text.vocab);
  const auto batch = static_cast<int64_t>(rows.cu.size()) - 1;
  std::vector<std::vector<int32_t>> answers(static_cast<size_t>(batch));
  if (batch == 0) return answers;
  int64_t longest = 0;
  std::vector<int64_t> active;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t n = rows.cu[static_cast<size_t>(b) + 1] - rows.cu[static_cast<size_t>(b)];
    check(n > 0, "[generate] prompt ", b, " is empty");
    longest = std::max(longest, n);
    active.push_back(b);
  }
  DecodeState state(ctx, c, dtype, batch, std::min(longest + options.max_new_tokens, limit));

  Graph g(ctx, false);
  const Var image_var = image_tokens.defined() ? g.constant(image_tokens) : Var();
  Pass pass = make_decode_pass(ctx, rows.cu, state, active);
  Tensor hidden = run_text(g, model.text, run_embedding(g, model.text, image_var, rows), pass).value();
  for (int64_t step = 0; step < options.max_new_tokens && !active.empty(); ++step) {
    const std::vector<int32_t> tokens = next_tokens(ctx, model, hidden, pass, options);
    std::vector<int64_t> still;
    SplicedRows next;
    next.cu.push_back(0);
    for (size_t i = 0; i < active.size(); ++i) {
      if (ends(options, tokens[i]) || state.length(active[i]) >= state.capacity()) {
        state.reset(ctx, active[i]);  // its memory is free for the others
        continue;
      }
      answers[static_cast<size_t>(active[i])].push_back(tokens[i]);
      if (on_token) on_token(active[i], tokens[i]);
      still.push_back(active[i]);
      next.source.push_back(tokens[i]);
      next.cu.push_back(static_cast<int64_t>(next.source.size()));
    }
    active = std::move(still);
    if (active.empty() || step + 1 == options.max_new_tokens) break;
    pass = make_decode_pass(ctx, next.cu, state, active);
    hidden = run_text(g, model.text, run_embedding(g, model.text, Var(), next), pass).value();
  }
  return answers;
}

}  // namespace matvlm
