// The emoji data set: pictures of a colour font with questions about name, group and keyword, as LLaVA JSON. It is made
// from Debian and Ubuntu packages: fonts-noto-color-emoji, unicode-data and (for languages but English)
// unicode-cldr-core. Built with FreeType, HarfBuzz and pugixml; without them make_emoji_dataset throws.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace matvlm {

struct EmojiOptions {
  std::string out;                // folder to make
  std::string language = "en";    // of names and keywords, a CLDR locale; questions and groups stay English
  int64_t image_size = 136;       // side of the square pictures; 136 is the font's own, others are resized
  uint64_t seed = 0;              // choice of held-out combinations, wrong names and order of questions
  int64_t held_out_percent = 10;  // of the (base emoji, skin tones) combinations, 0 to 20
  int64_t limit = 0;              // only the first N emoji of the list, for tests; 0 is all
  std::string font = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf";
  std::string emoji_test = "/usr/share/unicode/emoji/emoji-test.txt";
  std::string cldr = "/usr/share/unicode/cldr/common";
};

struct EmojiReport {
  int64_t listed = 0;                                        // fully-qualified entries up to Unicode 15.0
  bool pinned_list = false;                                  // whether they are exactly those of Unicode 15.0
  std::map<std::string, std::vector<std::string>> left_out;  // reason -> names
  int64_t train_pictures = 0;
  int64_t held_out_pictures = 0;
  int64_t train_samples = 0;
  int64_t held_out_samples = 0;
  std::map<std::string, int64_t> train_questions;     // by category
  std::map<std::string, int64_t> held_out_questions;  // by category
  std::string text() const;                           // some lines, as in README.txt
};

// Writes OUT/images/*.png, OUT/train.json, OUT/heldout.json and OUT/README.txt, the JSON last.
// train.json: four conversations a picture; which category opens a conversation turns with the emoji, and a yes/no
// question, which says the name, never shares a conversation with the name question.
// heldout.json: combinations of base emoji and skin tones whose base is seen in other tones and whose tones are seen on
// other bases in train.json; one question a sample, so that no earlier turn helps.
// Of pictures that are equal bit by bit (flags of dependent territories) only one stays, so that the name is a function
// of the picture. Same options and same packages give the same bytes.
EmojiReport make_emoji_dataset(const EmojiOptions& options);

}  // namespace matvlm
