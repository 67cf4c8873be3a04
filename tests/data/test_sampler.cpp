// The global order and its division: permutations of every epoch, the same samples whatever the number of ranks.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "data/sampler.h"

namespace matvlm {
namespace {

std::vector<int64_t> epoch_of(const SampleOrder& order, int64_t n, int64_t epoch) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < n; ++i) out.push_back(order.sample_at(epoch * n + i));
  return out;
}

TEST(SampleOrder, EveryEpochIsAnotherPermutation) {
  for (const int64_t n : {1, 2, 3, 7, 64, 255, 256, 257, 1000, 4097}) {
    const SampleOrder order(n, 5, true);
    std::set<std::vector<int64_t>> different;
    for (int64_t epoch = 0; epoch < 3; ++epoch) {
      std::vector<int64_t> samples = epoch_of(order, n, epoch);
      different.insert(samples);
      std::sort(samples.begin(), samples.end());
      for (int64_t i = 0; i < n; ++i) ASSERT_EQ(samples[static_cast<size_t>(i)], i) << n;
    }
    if (n >= 64) {
      EXPECT_EQ(different.size(), 3U) << n;
    }
  }
}

TEST(SampleOrder, DependsOnTheSeedOnly) {
  const SampleOrder order(1000, 5, true);
  EXPECT_EQ(epoch_of(order, 1000, 1), epoch_of(SampleOrder(1000, 5, true), 1000, 1));
  EXPECT_NE(epoch_of(order, 1000, 1), epoch_of(SampleOrder(1000, 6, true), 1000, 1));
  const SampleOrder plain(3, 5, false);
  EXPECT_EQ(epoch_of(plain, 3, 0), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(plain.sample_at(3), 0);
}

TEST(SampleOrder, PlacesAreUniform) {
  // Sample 0's place over many epochs, and the sample at place 0, in 8 bins: chi square with 7 degrees of freedom is
  // above 24.3 with probability 0.001. The seed is fixed, so the result is too.
  constexpr int64_t n = 40;
  const SampleOrder order(n, 11, true);
  std::vector<double> place_bins(8);
  std::vector<double> sample_bins(8);
  constexpr int64_t epochs = 4000;
  for (int64_t e = 0; e < epochs; ++e) {
    const std::vector<int64_t> samples = epoch_of(order, n, e);
    const auto place = std::find(samples.begin(), samples.end(), 0) - samples.begin();
    place_bins[static_cast<size_t>(place / 5)] += 1;
    sample_bins[static_cast<size_t>(samples[0] / 5)] += 1;
  }
  for (const auto& bins : {place_bins, sample_bins}) {
    double chi_square = 0;
    for (const double count : bins) chi_square += std::pow(count - epochs / 8.0, 2) / (epochs / 8.0);
    EXPECT_LT(chi_square, 24.3);
  }
}

TEST(SampleOrder, HugeNumbersOfSamples) {
  const int64_t n = int64_t{1} << 40;
  const SampleOrder order(n, 1, true);
  std::set<int64_t> seen;
  for (int64_t i = 0; i < 1000; ++i) {
    const int64_t sample = order.sample_at(3 * n + i);
    EXPECT_TRUE(sample >= 0 && sample < n);
    seen.insert(sample);
  }
  EXPECT_EQ(seen.size(), 1000U);
  EXPECT_THROW(order.sample_at(-1), Error);
  EXPECT_THROW(SampleOrder(0, 1, true), Error);
}

TEST(BatchDivision, EveryRowIsOnOneRankInOneMicroStep) {
  for (const int64_t batch_size : {1, 2, 5, 8, 64}) {
    for (const int64_t micro : {1, 2, 3, 64}) {
      for (const int64_t ranks : {1, 2, 3, 7, 8, 100}) {
        const BatchDivision division{batch_size, micro, ranks};
        std::vector<int64_t> rows;
        int64_t most = 0;
        int64_t least = batch_size;
        for (int64_t rank = 0; rank < ranks; ++rank) {
          int64_t of_rank = 0;
          for (int64_t step = 0; step < division.micro_steps(); ++step) {
            const RowRange range = division.micro_rows(rank, step);
            EXPECT_LE(range.size(), micro);
            for (int64_t row = range.begin; row < range.end; ++row) rows.push_back(row);
            of_rank += range.size();
          }
          EXPECT_EQ(of_rank, division.rank_rows(rank).size());
          most = std::max(most, of_rank);
          least = std::min(least, of_rank);
        }
        ASSERT_EQ(static_cast<int64_t>(rows.size()), batch_size);
        for (int64_t i = 0; i < batch_size; ++i) EXPECT_EQ(rows[static_cast<size_t>(i)], i);
        EXPECT_LE(most - least, 1);
        EXPECT_LT((division.micro_steps() - 1) * micro, most);  // no micro-step is empty everywhere
      }
    }
  }
}

TEST(BatchDivision, ValuesOutOfRange) {
  EXPECT_THROW((BatchDivision{0, 1, 1}.validate()), Error);
  EXPECT_THROW((BatchDivision{1, 0, 1}.validate()), Error);
  EXPECT_THROW((BatchDivision{1, 1, 0}.validate()), Error);
  EXPECT_NO_THROW((BatchDivision{1, 2, 3}.validate()));
}

}  // namespace
}  // namespace matvlm
