// Learns a byte-level BPE vocabulary (Sennrich et al. 2016, on bytes) and makes a Tokenizer of it, in the format of
// Hugging Face tokenizer.json with GPT-2's pre-tokenisation.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace matvlm {

struct BpeTrainerOptions {
  int64_t vocab_size = 2048;                                    // special tokens and the 256 bytes included
  std::vector<std::string> special_tokens = {"<|endoftext|>"};  // ids 0, 1, ...; then the bytes, then the merges
  int64_t min_count = 2;                                        // pairs that are rarer are not merged
};

// Deterministic: in each round the most frequent pair is merged, of equally frequent ones the one whose tokens come
// first alphabetically (left, then right, by bytes). Special tokens in the texts are not learnt from. The vocabulary is
// smaller than asked when no pair is left. Error when vocab_size is too small for the bytes and the special tokens.
Tokenizer train_bpe(const std::vector<std::string>& texts, const BpeTrainerOptions& options);

}  // namespace matvlm
