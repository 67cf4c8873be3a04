// Colour bitmaps by FreeType.
#include <ft2build.h>
// FT_FREETYPE_H is defined by ft2build.h.
#include FT_FREETYPE_H

#include "core/error.h"
#include "data/emoji_font.h"
#include "data/emoji_list.h"

namespace matvlm {

struct EmojiFont::Handles {
  FT_Library library = nullptr;
  FT_Face face = nullptr;
  std::string path;
  ~Handles() {
    if (face != nullptr) FT_Done_Face(face);
    if (library != nullptr) FT_Done_FreeType(library);
  }
};

EmojiFont::EmojiFont(const std::string& font) : handles_(std::make_unique<Handles>()) {
  require_emoji_file(font, "fonts-noto-color-emoji");
  handles_->path = font;
  check(FT_Init_FreeType(&handles_->library) == 0, "FreeType does not start");
  const FT_Error error = FT_New_Face(handles_->library, font.c_str(), 0, &handles_->face);
  check(error == 0, font, ": FreeType cannot read the font (error ", error, ")");
  check(FT_HAS_COLOR(handles_->face) && handles_->face->num_fixed_sizes > 0, font,
        ": the font has no colour bitmaps; expected a font with a CBDT table, such as NotoColorEmoji.ttf");
  check(FT_Select_Size(handles_->face, 0) == 0, font, ": FreeType cannot select the font's bitmap size");
}

EmojiFont::~EmojiFont() = default;

Image EmojiFont::render(uint32_t glyph) const {
  const FT_Face face = handles_->face;
  const FT_Error error = FT_Load_Glyph(face, glyph, FT_LOAD_COLOR);
  check(error == 0, handles_->path, ": FreeType cannot load glyph ", glyph, " (error ", error, ")");
  const FT_Bitmap& bitmap = face->glyph->bitmap;
  check(face->glyph->format == FT_GLYPH_FORMAT_BITMAP && bitmap.pixel_mode == FT_PIXEL_MODE_BGRA && bitmap.rows > 0 &&
            bitmap.width > 0 && bitmap.pitch > 0,
        handles_->path, ": glyph ", glyph, " has no colour bitmap");
  Image image{bitmap.width, bitmap.rows, std::vector<uint8_t>(size_t{bitmap.width} * bitmap.rows * 3)};
  for (size_t y = 0; y < bitmap.rows; ++y) {
    const uint8_t* row = bitmap.buffer + y * static_cast<size_t>(bitmap.pitch);
    for (size_t x = 0; x < bitmap.width; ++x) {
      const uint8_t* bgra = row + 4 * x;  // already multiplied by alpha, so white only fills up
      for (size_t c = 0; c < 3; ++c) {
        image.rgb[(y * bitmap.width + x) * 3 + c] = static_cast<uint8_t>(bgra[2 - c] + 255 - bgra[3]);
      }
    }
  }
  return image;
}

}  // namespace matvlm
