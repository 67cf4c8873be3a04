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
struct Decomposition {
  uint32_t code;
  uint32_t first;
  uint32_t second;  // 0: one code point takes another's place
};
struct Composition {
  uint32_t first;
  uint32_t second;
  uint32_t code;
};

// All in rising order.
std::span<const CombiningRange> combining_ranges();
std::span<const Decomposition> decompositions();
std::span<const Composition> compositions();

}  // namespace matvlm
