// The order of samples and its division over ranks and micro-batches. Everything is a function of (seed, position), so
// that a run can go on from any position, on any number of ranks, with the same samples in the same updates.
#pragma once

#include <cstdint>
#include <vector>

namespace matvlm {

// Position p of the endless global order is sample perm_e(p mod n) of epoch e = p / n; perm_e is a permutation made
// from (seed, e), or the identity without shuffling. A batch that reaches over the end of an epoch goes on in the next.
class SampleOrder {
 public:
  // n > 0 samples.
  SampleOrder(int64_t n, uint64_t seed, bool shuffle);
  int64_t sample_at(int64_t position) const;

 private:
  uint64_t permute(uint64_t value, uint64_t epoch) const;

  int64_t n_;
  uint64_t seed_;
  bool shuffle_;
  int half_bits_;  // the permuted domain is 2^(2 half_bits) >= n
};

// Rows [begin, end) of a global batch.
struct RowRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const RowRange&) const = default;
};

// How one global batch of batch_size rows is divided: every rank has a contiguous part, parts differ by at most one
// row; each part is processed in micro_batch_size rows at a time. All ranks do the same number of micro-steps; the last
// ones may have fewer rows, or none, on some ranks.
struct BatchDivision {
  int64_t batch_size = 1;
  int64_t micro_batch_size = 1;
  int64_t ranks = 1;

  // Error unless all are positive.
  void validate() const;
  RowRange rank_rows(int64_t rank) const;
  int64_t micro_steps() const;
  RowRange micro_rows(int64_t rank, int64_t micro_step) const;
};

}  // namespace matvlm
