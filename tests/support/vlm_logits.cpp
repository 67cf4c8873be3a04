#include "tests/support/vlm_logits.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/ops/head_loss.h"
#include "distill/generate.h"
#include "layers/tensors.h"
#include "layers/vlm.h"

namespace matvlm::testing {

std::vector<float> vlm_logits(Context& ctx, const std::string& dir, const std::vector<int32_t>& ids,
                              const std::vector<float>& image) {
  const ModelConfig config = read_model_config(dir);
  const ModelWeights weights = load_frozen_weights(ctx, config, TensorSource::open(dir), DType::f32);
  const Vlm model = make_vlm(weights, config);
  TokenRows rows;
  rows.ids = ids;
  rows.cu = {0, static_cast<int64_t>(ids.size())};
  rows.image_of_row = {image.empty() ? -1 : 0};
  const int64_t patches = config.vision ? config.vision->patches() : 0;
  const bool drop_first = config.vision && config.vision->drop_first_patch;
  const SplicedRows spliced = splice_rows(rows, patches, drop_first, 0, config.text.vocab);
  Graph g(ctx, false);
  Var tokens;
  if (!image.empty()) tokens = g.constant(encode_images(ctx, model, image, 1, DType::f32));
  const Var embedded = run_embedding(g, model.text, tokens, spliced);
  const Tensor h = run_text(g, model.text, embedded, make_pass(ctx, spliced.cu)).value();
  return head_logits(ctx, h, model.text.head.weight.value, model.text.head.bias.value).to_floats(ctx);
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double distance = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    largest = std::isnan(distance) ? std::numeric_limits<double>::infinity() : std::max(largest, distance);
  }
  return largest;
}

}  // namespace matvlm::testing
