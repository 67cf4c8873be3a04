// What the emoji data set asks of FreeType and HarfBuzz. Both classes throw when the program was built without them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/image.h"

namespace matvlm {

// Text to glyph ids of one font, left to right, invisible code points removed (HarfBuzz).
class EmojiShaper {
 public:
  explicit EmojiShaper(const std::string& font);
  ~EmojiShaper();
  EmojiShaper(const EmojiShaper&) = delete;
  EmojiShaper& operator=(const EmojiShaper&) = delete;

  // Glyph 0 stands for what the font lacks. An emoji that the font knows gives exactly one other glyph.
  std::vector<uint32_t> shape(std::u32string_view text) const;

 private:
  struct Handles;
  std::unique_ptr<Handles> handles_;
};

// Colour bitmaps of one font (FreeType).
class EmojiFont {
 public:
  explicit EmojiFont(const std::string& font);
  ~EmojiFont();
  EmojiFont(const EmojiFont&) = delete;
  EmojiFont& operator=(const EmojiFont&) = delete;

  // The glyph's bitmap over white, 136 x 128 in Noto Color Emoji. Error when the glyph has no colour bitmap.
  Image render(uint32_t glyph) const;

 private:
  struct Handles;
  std::unique_ptr<Handles> handles_;
};

}  // namespace matvlm
