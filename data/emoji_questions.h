// From named emoji to questions and answers: which combinations are held out, and what is asked about each picture.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/emoji_list.h"
#include "data/image_dataset.h"

namespace matvlm {

struct EmojiPicture {
  EmojiEntry entry;
  std::string name;  // in the data set's language
  std::string keyword;
  uint32_t glyph = 0;
  bool held_out = false;
};

// Sets held_out for about `percent` of the (base, skin tones) combinations, by a hash of `seed`. For every one of them
// the base stays in training in other tones, and the same tones on other bases.
void hold_out_combinations(std::vector<EmojiPicture>& pictures, int64_t percent, uint64_t seed);

// Two conversations of two questions for each picture that is not held out. Wrong names of yes/no questions are never
// held-out ones: else a model could learn that unseen combinations are always "no".
std::vector<LlavaSample> emoji_train_samples(const std::vector<EmojiPicture>& pictures, uint64_t seed);

// One sample for each question on a held-out picture.
std::vector<LlavaSample> emoji_held_out_samples(const std::vector<EmojiPicture>& pictures, uint64_t seed);

std::string emoji_image_path(const EmojiEntry& entry);  // below the image folder

}  // namespace matvlm
