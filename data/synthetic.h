// A generated data set that needs no package: coloured shapes with questions about shape, colour and number, and some
// samples of text only. For tests, and to try the program without the emoji packages.
#pragma once

#include <cstdint>
#include <string>

namespace matvlm {

struct SyntheticOptions {
  std::string out;          // folder to make
  int64_t samples = 256;    // in train.json; heldout.json gets a quarter of it, at least 24
  int64_t image_size = 64;  // side of the square pictures, 16 to 1024
  uint64_t seed = 0;
};

struct SyntheticReport {
  int64_t pictures = 0;
  int64_t train_samples = 0;
  int64_t held_out_samples = 0;
  int64_t text_only_samples = 0;  // of both files
  std::string text() const;       // some lines, as in README.txt
};

// Writes OUT/images/*.png, OUT/train.json, OUT/heldout.json and OUT/README.txt in the layout of the emoji data set, the
// JSON last. train.json has one to three questions a picture, every eighth sample is text only (a sum). heldout.json
// has one question a sample, about combinations of colour and shape (and sums) that train.json lacks, while it has each
// colour and each shape. Same options give the same bytes, and a smaller number of samples gives a prefix.
SyntheticReport make_synthetic_dataset(const SyntheticOptions& options);

}  // namespace matvlm
