// From ids with an image mark to the rows of the language model: sources, labels, targets, both cuts, errors.
#include <gtest/gtest.h>

#include "core/error.h"
#include "layers/rows.h"

namespace matvlm {
namespace {

using Ints = std::vector<int32_t>;

// Rows of (ids, labels, image).
struct Row {
  Ints ids, labels;
  int64_t image = -1;
};
TokenRows token_rows(const std::vector<Row>& rows) {
  TokenRows out;
  out.cu.push_back(0);
  for (const Row& row : rows) {
    out.ids.insert(out.ids.end(), row.ids.begin(), row.ids.end());
    out.labels.insert(out.labels.end(), row.labels.begin(), row.labels.end());
    out.cu.push_back(static_cast<int64_t>(out.ids.size()));
    out.image_of_row.push_back(row.image);
  }
  return out;
}

std::string error_of(const TokenRows& rows, int64_t max_length = 0) {
  try {
    splice_rows(rows, 4, false, max_length, 10);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

constexpr int32_t kNo = kNoLabel;

TEST(SpliceRows, TheMarkIsReplacedByTheImagesFeatures) {
  const TokenRows rows = token_rows({{{1, kImageId, 2, 3}, {kNo, kNo, kNo, 3}, 1}, {{4, 5}, {kNo, 5}, -1}});
  const SplicedRows out = splice_rows(rows, 3, false, 0, 10);
  EXPECT_EQ(out.source, (Ints{1, -1 - 3, -1 - 4, -1 - 5, 2, 3, 4, 5}));  // image 1 has feature rows 3, 4, 5
  EXPECT_EQ(out.labels, (Ints{kNo, kNo, kNo, kNo, kNo, 3, kNo, 5}));
  EXPECT_EQ(out.cu, (std::vector<int64_t>{0, 6, 8}));
}

TEST(SpliceRows, TheFirstPatchMayBeLeftOut) {
  const TokenRows rows = token_rows({{{kImageId, 7}, {kNo, 7}, 2}});
  const SplicedRows out = splice_rows(rows, 3, true, 0, 10);
  EXPECT_EQ(out.source, (Ints{-1 - 7, -1 - 8, 7}));
  EXPECT_EQ(out.labels, (Ints{kNo, kNo, 7}));
  EXPECT_EQ(out.cu, (std::vector<int64_t>{0, 3}));
}

TEST(SpliceRows, TargetsAreLabelsShiftedWithinTheirRow) {
  const TokenRows rows = token_rows({{{1, 2, 3}, {kNo, 2, 3}, -1}, {{4, kImageId, 6}, {4, kNo, 6}, 0}, {{8}, {8}, -1}});
  const SplicedRows out = splice_rows(rows, 2, false, 0, 10);
  EXPECT_EQ(out.labels, (Ints{kNo, 2, 3, 4, kNo, kNo, 6, 8}));
  // The last position of a row has no target, and the 4 and 8 that begin rows are nobody's.
  EXPECT_EQ(out.targets(), (Ints{2, 3, kNo, kNo, kNo, 6, kNo, kNo}));
  EXPECT_EQ(out.answers(), (std::vector<uint8_t>{0, 1, 1, 1, 0, 0, 1, 1}));
}

TEST(SpliceRows, WithoutLabelsThereAreNone) {
  const SplicedRows out = splice_rows(token_rows({{{1, kImageId}, {}, 0}}), 2, false, 0, 10);
  EXPECT_EQ(out.source, (Ints{1, -1, -2}));
  EXPECT_TRUE(out.labels.empty());
  EXPECT_TRUE(out.targets().empty());
  EXPECT_TRUE(out.answers().empty());
}

TEST(SpliceRows, IdsAreCutBeforeTheSpliceAndTheRowAfterIt) {
  const Row row{{1, 2, kImageId, 3, 4, 5}, {kNo, kNo, kNo, 3, 4, 5}, 0};
  const Row text{{6, 7, 8, 9, 6, 7, 8}, {kNo, kNo, kNo, 9, 6, 7, 8}, -1};
  const auto spliced = [&](int64_t max_length) {
    return splice_rows(token_rows({row, text}), 4, false, max_length, 10);
  };
  // 9 positions and 7: nothing is cut at 9.
  EXPECT_EQ(spliced(9).cu, (std::vector<int64_t>{0, 9, 16}));
  // At 7 no id is cut, but the spliced row is, and so that the next one starts right behind it.
  SplicedRows out = spliced(7);
  EXPECT_EQ(out.source, (Ints{1, 2, -1, -2, -3, -4, 3, 6, 7, 8, 9, 6, 7, 8}));
  EXPECT_EQ(out.labels, (Ints{kNo, kNo, kNo, kNo, kNo, kNo, 3, kNo, kNo, kNo, 9, 6, 7, 8}));
  // At 5 the id 5 is cut before and everything behind the third feature after the splice.
  out = spliced(5);
  EXPECT_EQ(out.source, (Ints{1, 2, -1, -2, -3, 6, 7, 8, 9, 6}));
  EXPECT_EQ(out.cu, (std::vector<int64_t>{0, 5, 10}));
  // At 2 the mark itself is cut: a row of text, and no error about its image.
  out = spliced(2);
  EXPECT_EQ(out.source, (Ints{1, 2, 6, 7}));
}

// A label that the cut before the splice removes must not come back: 3 ids fit before, 6 positions after.
TEST(SpliceRows, TheFirstCutCountsIdsAndNotPositions) {
  const TokenRows rows = token_rows({{{1, kImageId, 2, 3, 4}, {kNo, kNo, 2, 3, 4}, 0}});
  const SplicedRows out = splice_rows(rows, 1, false, 4, 10);
  EXPECT_EQ(out.source, (Ints{1, -1, 2, 3}));
}

TEST(SpliceRows, AnImageOfOnePatchOfWhichTheFirstIsLeftOutLeavesNothing) {
  const SplicedRows out = splice_rows(token_rows({{{1, kImageId, 2}, {kNo, kNo, 2}, 0}}), 1, true, 0, 10);
  EXPECT_EQ(out.source, (Ints{1, 2}));
  EXPECT_EQ(out.targets(), (Ints{2, kNo}));
}

TEST(SpliceRows, ErrorsNameRowAndToken) {
  const auto text = [](Ints ids, int64_t image) {
    Row row{std::move(ids), {}, image};
    row.labels.assign(row.ids.size(), kNo);
    return token_rows({{{1, 2}, {kNo, kNo}, -1}, row});
  };
  EXPECT_EQ(error_of(text({3, 4, 10}, -1)), "[splice] row 1, token 2: found id 10, expected 0 to 9");
  EXPECT_EQ(error_of(text({-1}, -1)), "[splice] row 1, token 0: found id -1, expected 0 to 9");
  EXPECT_EQ(error_of(text({3, kImageId}, -1)), "[splice] row 1 has an image mark but no image");
  EXPECT_EQ(error_of(text({3, 4}, 0)), "[splice] row 1 has an image but no image mark");
  EXPECT_EQ(error_of(text({kImageId, 4, kImageId}, 0)), "[splice] row 1 has more than one image mark");
  EXPECT_EQ(error_of(text({3, 9}, -1)), "no error");
}

TEST(SpliceRows, RowsThatDoNotFitTogether) {
  TokenRows rows = token_rows({{{1, 2}, {kNo, kNo}, -1}});
  rows.labels.pop_back();
  EXPECT_EQ(error_of(rows), "[splice] found 1 labels for 2 ids");
  rows = token_rows({{{1, 2}, {kNo, kNo}, -1}});
  rows.cu.back() = 3;
  EXPECT_EQ(error_of(rows), "[splice] ids, boundaries and images do not fit together");
  rows = token_rows({{{1, 2}, {kNo, kNo}, -1}});
  rows.image_of_row.push_back(-1);
  EXPECT_EQ(error_of(rows), "[splice] ids, boundaries and images do not fit together");
  EXPECT_EQ(error_of(TokenRows()), "[splice] ids, boundaries and images do not fit together");
}

TEST(SpliceRows, TextsThatShareARow) {
  TokenRows rows = token_rows({{{1, 2, 3, 4, 5}, {1, 2, 3, 4, 5}, -1}, {{6, 7, 8}, {6, 7, 8}, -1}});
  rows.sequences = {0, 2, 5, 7, 8};
  SplicedRows out = splice_rows(rows, 0, false, 0, 10);
  EXPECT_EQ(out.sequences, rows.sequences);
  EXPECT_EQ(out.sequence_cu(), rows.sequences);
  EXPECT_EQ(out.cu, (std::vector<int64_t>{0, 5, 8}));
  EXPECT_EQ(out.targets(), (Ints{2, kNo, 4, 5, kNo, 7, kNo, kNo}));
  out = splice_rows(rows, 0, false, 2, 10);  // both rows cut; the first one at a boundary
  EXPECT_EQ(out.sequences, (std::vector<int64_t>{0, 2, 4}));
  EXPECT_EQ(out.cu, (std::vector<int64_t>{0, 2, 4}));
  rows.sequences = {};
  EXPECT_EQ(splice_rows(rows, 0, false, 0, 10).sequence_cu(), rows.cu);
  rows.sequences = {0, 2, 6, 8};  // reaches over the end of the first row
  EXPECT_EQ(error_of(rows), "[splice] boundaries of texts do not fit the rows");
  rows = token_rows({{{1, kImageId}, {}, 0}});
  rows.sequences = {0, 2};
  EXPECT_EQ(error_of(rows), "[splice] row 0 has an image mark beside several texts");
}

}  // namespace
}  // namespace matvlm
