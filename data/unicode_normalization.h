// Canonical decomposition and composition of Unicode 9.0, the version by which Hugging Face tokenizers normalise.
// Hangul syllables are not in the tables, they are computed (data/normalize.cpp).
#pragma once

#include <cstdint>
#include <span>

namespace matvlm {

// Canonical combining class of the closed range; every other code point has class 0.
struct CombiningRange {
  uint32_t first;
  uint32_t last;
  uint32_t combining_class;
};
struct DecompositionPair {
  uint32_t code;
  uint32_t first;
  uint32_t second;
};
// Code points first, first + 1, ..., each of which stands for one other: single_targets()[begin], [begin + 1], ...
struct SingleRun {
  uint32_t first;
  uint32_t count;
  uint32_t begin;
};

// All in rising order.
std::span<const CombiningRange> combining_ranges();
std::span<const DecompositionPair> decomposition_pairs();
std::span<const uint32_t> composition_exclusions();  // codes of pairs that are taken apart but not put together
std::span<const SingleRun> single_runs();
std::span<const uint32_t> single_targets();

}  // namespace matvlm
