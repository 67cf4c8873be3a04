// The split of text into words before byte-pair merging, for the patterns that published byte-level tokenizers use.
// Written by hand: quicker than a regular-expression library, which is only needed for other patterns (data/regex.h).
#pragma once

#include <optional>
#include <string_view>
#include <vector>

namespace matvlm {

enum class SplitPattern {
  gpt2,    // GPT-2, Phi-2, CodeGen: letters, numbers, others, each with one space before
  llama3,  // Llama 3 and cl100k: case-blind contractions, numbers in groups of up to three, newlines kept with text
  qwen2,   // as llama3, but every digit alone
  each_number,  // Digits with individual_digits: every number character alone, what is between them in one piece
  numbers,      // Digits without: runs of number characters
};

// The pattern that a regular expression of a tokenizer.json stands for; nothing when it is none of them.
std::optional<SplitPattern> known_split_pattern(std::string_view regex);

// Appends the pieces of `text`, in order and without gaps, to `out` (views into `text`). Text need not be valid UTF-8:
// a byte that starts no valid sequence counts as neither letter, number nor white space.
void split_text(std::string_view text, SplitPattern pattern, std::vector<std::string_view>& out);

}  // namespace matvlm
