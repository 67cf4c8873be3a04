// Shaping by HarfBuzz: emoji sequences (joined by U+200D, flags, keycaps, skin tones) become one glyph by the font's
// substitution table.
#include <hb.h>

#include "core/error.h"
#include "data/emoji_font.h"
#include "data/emoji_list.h"

namespace matvlm {

struct EmojiShaper::Handles {
  hb_font_t* font = nullptr;
  hb_buffer_t* buffer = nullptr;
  ~Handles() {
    hb_buffer_destroy(buffer);
    hb_font_destroy(font);
  }
};

EmojiShaper::EmojiShaper(const std::string& font) : handles_(std::make_unique<Handles>()) {
  require_emoji_file(font, "fonts-noto-color-emoji");
  hb_blob_t* blob = hb_blob_create_from_file_or_fail(font.c_str());
  check(blob != nullptr, font, ": cannot read the font");
  hb_face_t* face = hb_face_create(blob, 0);
  hb_blob_destroy(blob);
  handles_->font = hb_font_create(face);
  const unsigned glyphs = hb_face_get_glyph_count(face);
  hb_face_destroy(face);
  check(glyphs > 0, font, ": HarfBuzz finds no glyphs in it; expected a font such as NotoColorEmoji.ttf");
  handles_->buffer = hb_buffer_create();
}

EmojiShaper::~EmojiShaper() = default;

std::vector<uint32_t> EmojiShaper::shape(std::u32string_view text) const {
  static_assert(sizeof(char32_t) == sizeof(uint32_t));
  hb_buffer_t* buffer = handles_->buffer;
  hb_buffer_clear_contents(buffer);
  hb_buffer_add_utf32(buffer, reinterpret_cast<const uint32_t*>(text.data()), static_cast<int>(text.size()), 0,
                      static_cast<int>(text.size()));
  hb_buffer_set_direction(buffer, HB_DIRECTION_LTR);
  hb_buffer_set_script(buffer, HB_SCRIPT_COMMON);
  hb_buffer_set_flags(buffer, HB_BUFFER_FLAG_REMOVE_DEFAULT_IGNORABLES);
  hb_shape(handles_->font, buffer, nullptr, 0);
  unsigned count = 0;
  const hb_glyph_info_t* infos = hb_buffer_get_glyph_infos(buffer, &count);
  std::vector<uint32_t> glyphs;
  for (unsigned i = 0; i < count; ++i) glyphs.push_back(infos[i].codepoint);
  return glyphs;
}

}  // namespace matvlm
