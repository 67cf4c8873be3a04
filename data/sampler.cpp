// A Feistel network over the smallest even power of two that holds n, with values outside 0..n-1 walked on: a
// permutation that needs no memory and can be entered anywhere.
#include "data/sampler.h"

#include <algorithm>

#include "core/error.h"
#include "core/rng.h"

namespace matvlm {
namespace {

constexpr uint64_t kRounds = 6;
constexpr int kMinHalfBits = 4;  // in smaller domains a few rounds do not mix well
constexpr uint64_t kStream = stream_of("data order");

}  // namespace

SampleOrder::SampleOrder(int64_t n, uint64_t seed, bool shuffle)
    : n_(n), seed_(seed), shuffle_(shuffle), half_bits_(kMinHalfBits) {
  check(n > 0, "sampler: found ", n, " samples, expected at least one");
  while (half_bits_ < 31 && (uint64_t{1} << static_cast<unsigned>(2 * half_bits_)) < static_cast<uint64_t>(n)) {
    ++half_bits_;
  }
}

uint64_t SampleOrder::permute(uint64_t value, uint64_t epoch) const {
  const auto bits = static_cast<unsigned>(half_bits_);
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  uint64_t left = value >> bits;
  uint64_t right = value & mask;
  for (uint64_t round = 0; round < kRounds; ++round) {
    const uint64_t mixed = philox4x32(seed_, kStream + epoch, round << 32U | right)[0];
    const uint64_t next = left ^ (mixed & mask);
    left = right;
    right = next;
  }
  return left << bits | right;
}

int64_t SampleOrder::sample_at(int64_t position) const {
  check(position >= 0, "sampler: found position ", position, ", expected at least 0");
  if (!shuffle_) return position % n_;
  const auto epoch = static_cast<uint64_t>(position / n_);
  auto value = static_cast<uint64_t>(position % n_);
  do {
    value = permute(value, epoch);
  } while (value >= static_cast<uint64_t>(n_));
  return static_cast<int64_t>(value);
}

void BatchDivision::validate() const {
  check(batch_size > 0, "sampler: found batch_size ", batch_size, ", expected at least 1");
  check(micro_batch_size > 0, "sampler: found micro_batch_size ", micro_batch_size, ", expected at least 1");
  check(ranks > 0, "sampler: found ", ranks, " ranks, expected at least 1");
}

RowRange BatchDivision::rank_rows(int64_t rank) const {
  const int64_t each = batch_size / ranks;
  const int64_t more = batch_size % ranks;  // the first ranks have one row more
  const int64_t begin = rank * each + std::min(rank, more);
  return {begin, begin + each + (rank < more ? 1 : 0)};
}

int64_t BatchDivision::micro_steps() const {
  const int64_t most = (batch_size + ranks - 1) / ranks;
  return (most + micro_batch_size - 1) / micro_batch_size;
}

RowRange BatchDivision::micro_rows(int64_t rank, int64_t micro_step) const {
  const RowRange rows = rank_rows(rank);
  const int64_t begin = std::min(rows.end, rows.begin + micro_step * micro_batch_size);
  return {begin, std::min(rows.end, begin + micro_batch_size)};
}

}  // namespace matvlm
