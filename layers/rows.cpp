#include "layers/rows.h"

#include <algorithm>

#include "core/error.h"

namespace matvlm {
namespace {

struct RowBuilder {
  const TokenRows& rows;
  int64_t patches;
  bool drop_first;
  int64_t vocab;
  SplicedRows out;

  void push(int32_t source, int32_t label) {
    out.source.push_back(source);
    if (!rows.labels.empty()) out.labels.push_back(label);
  }

  void push_image(int64_t row) {
    const int64_t image = rows.image_of_row[static_cast<size_t>(row)];
    check(image >= 0, "[splice] row ", row, " has an image mark but no image");
    for (int64_t i = drop_first ? 1 : 0; i < patches; ++i) {
      push(static_cast<int32_t>(-1 - (image * patches + i)), kNoLabel);
    }
  }

  // Ids [begin, end) of `row`; end is already cut.
  void push_row(int64_t row, int64_t begin, int64_t end) {
    int64_t marks = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int32_t id = rows.ids[static_cast<size_t>(i)];
      if (id == kImageId) {
        check(++marks == 1, "[splice] row ", row, " has more than one image mark");
        push_image(row);
        continue;
      }
      check(id >= 0 && id < vocab, "[splice] row ", row, ", token ", i - begin, ": found id ", id, ", expected 0 to ",
            vocab - 1);
      push(id, rows.labels.empty() ? kNoLabel : rows.labels[static_cast<size_t>(i)]);
    }
  }
};

}  // namespace

std::vector<int32_t> SplicedRows::targets() const {
  std::vector<int32_t> out(labels.size(), kNoLabel);
  if (labels.empty()) return out;
  const std::vector<int64_t>& ends = sequence_cu();
  for (size_t b = 0; b + 1 < ends.size(); ++b) {
    for (int64_t t = ends[b]; t + 1 < ends[b + 1]; ++t) {
      out[static_cast<size_t>(t)] = labels[static_cast<size_t>(t) + 1];
    }
  }
  return out;
}

std::vector<uint8_t> SplicedRows::answers() const {
  std::vector<uint8_t> out(labels.size());
  for (size_t t = 0; t < labels.size(); ++t) out[t] = labels[t] == kNoLabel ? 0 : 1;
  return out;
}

namespace {

// Every row's boundary must be a sequence's.
void check_sequences(const TokenRows& rows) {
  if (rows.sequences.empty()) return;
  check(std::is_sorted(rows.sequences.begin(), rows.sequences.end()) &&
            std::includes(rows.sequences.begin(), rows.sequences.end(), rows.cu.begin(), rows.cu.end()) &&
            rows.sequences.back() == rows.cu.back(),
        "[splice] boundaries of texts do not fit the rows");
}

// Boundaries of the texts of input row [begin, end), which now is the last row of `out`.
void push_sequences(const TokenRows& rows, int64_t begin, int64_t end, SplicedRows& out) {
  if (rows.sequences.empty()) return;
  const int64_t start = out.cu[out.cu.size() - 2];
  const auto first = std::upper_bound(rows.sequences.begin(), rows.sequences.end(), begin);
  for (auto at = first; at != rows.sequences.end() && *at < end; ++at) {
    const int64_t moved = start + *at - begin;
    if (moved < out.cu.back()) out.sequences.push_back(moved);
  }
  out.sequences.push_back(out.cu.back());
}

}  // namespace

SplicedRows splice_rows(const TokenRows& rows, int64_t patches, bool drop_first, int64_t max_length, int64_t vocab) {
  check(!rows.cu.empty() && rows.cu.back() == static_cast<int64_t>(rows.ids.size()) &&
            rows.image_of_row.size() + 1 == rows.cu.size(),
        "[splice] ids, boundaries and images do not fit together");
  check(rows.labels.empty() || rows.labels.size() == rows.ids.size(), "[splice] found ", rows.labels.size(),
        " labels for ", rows.ids.size(), " ids");
  check_sequences(rows);
  RowBuilder builder{rows, patches, drop_first, vocab, {}};
  builder.out.cu.push_back(0);
  if (!rows.sequences.empty()) builder.out.sequences.push_back(0);
  for (size_t b = 0; b + 1 < rows.cu.size(); ++b) {
    const auto row = static_cast<int64_t>(b);
    const int64_t begin = rows.cu[b];
    int64_t end = rows.cu[b + 1];
    const auto first = rows.ids.begin() + begin;
    const bool marked = std::find(first, rows.ids.begin() + end, kImageId) != rows.ids.begin() + end;
    check(marked || rows.image_of_row[b] < 0, "[splice] row ", row, " has an image but no image mark");
    check(!marked || rows.sequences.empty(), "[splice] row ", row, " has an image mark beside several texts");
    if (max_length > 0) end = std::min(end, begin + max_length);
    builder.push_row(row, begin, end);
    const int64_t start = builder.out.cu.back();
    if (max_length > 0 && static_cast<int64_t>(builder.out.source.size()) > start + max_length) {
      builder.out.source.resize(static_cast<size_t>(start + max_length));
      if (!rows.labels.empty()) builder.out.labels.resize(static_cast<size_t>(start + max_length));
    }
    builder.out.cu.push_back(static_cast<int64_t>(builder.out.source.size()));
    push_sequences(rows, begin, rows.cu[b + 1], builder.out);
  }
  return std::move(builder.out);
}

}  // namespace matvlm
