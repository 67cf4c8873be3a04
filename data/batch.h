// A micro-batch on the host, rows packed without padding. What data/ hands to launch/, which turns it into tensors.
#pragma once

#include <cstdint>
#include <vector>

namespace matvlm {

inline constexpr int32_t kImageToken = -200;   // stands in input_ids where the image goes
inline constexpr int32_t kIgnoreLabel = -100;  // label that no loss counts

// B rows; row b holds input_ids[cu_seqlens[b] .. cu_seqlens[b+1]), image token not yet spliced in.
struct Batch {
  std::vector<int64_t> samples;     // B: index of each row in the data set
  std::vector<int32_t> input_ids;   // T
  std::vector<int32_t> labels;      // T, aligned with input_ids (not shifted), kIgnoreLabel = ignored
  std::vector<int64_t> cu_seqlens;  // B + 1, cu_seqlens[0] = 0
  // Boundaries of the texts that share rows, rows' own among them; empty: every row is one text.
  std::vector<int64_t> sequences = {};
  std::vector<int64_t> image_of_row;  // B: index into images, or -1 for a text-only row
  std::vector<float> images;          // n_images x 3 x image_size x image_size, normalised
  int64_t image_size = 0;
  int64_t rows() const { return static_cast<int64_t>(samples.size()); }
  int64_t n_images() const {
    const int64_t per_image = 3 * image_size * image_size;
    return per_image == 0 ? 0 : static_cast<int64_t>(images.size()) / per_image;
  }
};

}  // namespace matvlm
