// From token ids with one image mark to the rows a language model sees: where every position's embedding comes from,
// its label, and the cuts to the maximum length.
#pragma once

#include <cstdint>
#include <vector>

namespace matvlm {

inline constexpr int32_t kImageId = -200;
inline constexpr int32_t kNoLabel = -100;

// B packed rows of ids. As data/batch.h, seen from the model's side.
struct TokenRows {
  std::vector<int32_t> ids;
  std::vector<int32_t> labels;        // aligned with ids; may be empty (generation)
  std::vector<int64_t> cu;            // B + 1
  std::vector<int64_t> image_of_row;  // B: index of the row's image, or -1
  // Where texts that share a row begin and end, rows' own boundaries among them; empty: every row is one text. Nothing
  // passes such a boundary: attention, convolution, states and positions begin anew.
  std::vector<int64_t> sequences = {};
};

// The spliced rows, T positions in all.
struct SplicedRows {
  std::vector<int32_t> source;  // T: >= 0 token id; < 0: row -1 - source of the image features [n_images * patches, D]
  std::vector<int32_t> labels;  // T, kNoLabel at image positions; empty when TokenRows had none
  std::vector<int64_t> cu;      // B + 1
  std::vector<int64_t> sequences = {};  // as in TokenRows
  // Boundaries of what the model runs as one sequence.
  const std::vector<int64_t>& sequence_cu() const { return sequences.empty() ? cu : sequences; }
  // Next-token target of each position, kNoLabel when not counted: labels shifted by one within each sequence. Empty
  // without labels.
  std::vector<int32_t> targets() const;
  // 1 where the answer's tokens stand (labels counted), else 0.
  std::vector<uint8_t> answers() const;
};

// patches: feature rows per image; drop_first: leave out the first of them. max_length: ids before the splice and the
// whole row after it are cut to it; 0 = no cut. vocab: ids must be below it. Error for an id out of range, an image
// mark without an image, an image without a mark, two marks in a row, an image in rows of several texts.
SplicedRows splice_rows(const TokenRows& rows, int64_t patches, bool drop_first, int64_t max_length, int64_t vocab);

}  // namespace matvlm
