// Decoding of many prompts at once, greedy or sampled.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "layers/vlm.h"

namespace matvlm {

struct GenerateOptions {
  int64_t max_new_tokens = 32;
  int32_t end_token = -1;                      // stops a sequence; -1: none
  std::vector<int64_t> other_end_tokens = {};  // that stop it as well
  double temperature = 0;                      // 0: greedy; else sampled from softmax(logits / temperature)
  uint64_t seed = 0;                           // of the sampling: a token is a function of (seed, row, position)
  int64_t max_length = 0;  // of prompt and answer together, image tokens included; 0 = the model's positions
};

// The connector's output for n images given as normalised pixels n x 3 x S x S; [n * patches, D].
Tensor encode_images(Context& ctx, const Vlm& model, const std::vector<float>& pixels, int64_t n, DType dtype);

// prompts: rows without labels; image_of_row indexes the images of `image_tokens` (undefined without images). Returns
// the new tokens of every row, end token not included. `on_token(row, token)` is called as tokens appear (may be
// empty).
std::vector<std::vector<int32_t>> generate_tokens(Context& ctx, const Vlm& model, const TokenRows& prompts,
                                                  const Tensor& image_tokens, DType dtype,
                                                  const GenerateOptions& options,
                                                  const std::function<void(int64_t, int32_t)>& on_token = {});

}  // namespace matvlm
