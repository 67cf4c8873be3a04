// Packs plain texts into rows of equal length, for language models without pictures. Texts stand one behind the other,
// each with its begin tokens (as the tokenizer's post-processor puts them) and an end token; one that does not fit goes
// on in the next row, where its context begins anew. Every token is learnt, but nothing is predicted over a boundary.
#pragma once

#include <string>
#include <vector>

#include "data/pack.h"

namespace matvlm {

struct TextPackOptions {
  std::vector<std::string> paths;  // see data/text_source.h
  std::string output;
  int64_t max_length = 1024;  // N, tokens of a row
  std::string end_token;  // a token of the tokenizer; empty: the first it has of <|endoftext|>, <|end_of_text|>, </s>
  bool skip_bad = false;
  Hdf5Compression compression = Hdf5Compression::none;
};

struct TextPackReport {
  int64_t documents = 0;
  int64_t rows = 0;
  int64_t tokens = 0;
  int64_t predicted = 0;  // tokens that have one before them in their row's text
  int64_t bytes = 0;      // of text
  std::map<std::string, int64_t> skipped;
  std::vector<std::string> messages;  // of the first skipped documents
};

// Error for a bad document (unless skip_bad), a tokenizer without the end token, or when nothing is left to learn from.
// The output appears complete or not at all. progress: bytes of the files.
TextPackReport pack_texts(const TextPackOptions& options, const Tokenizer& tokenizer,
                          const PackProgressFunction& progress = {});

}  // namespace matvlm
