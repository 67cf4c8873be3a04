// In place of emoji_font_emoji.cpp, emoji_shape_emoji.cpp and emoji_cldr_emoji.cpp where their libraries are missing.
#include "core/error.h"
#include "data/emoji_font.h"
#include "data/emoji_keywords.h"

namespace matvlm {
namespace {

[[noreturn]] void fail_missing() {
  fail("this program was built without FreeType, HarfBuzz or pugixml, which the emoji data set needs: apt-get install ",
       "libfreetype-dev libharfbuzz-dev libpugixml-dev pkg-config, then configure and build again");
}

}  // namespace

struct EmojiShaper::Handles {};
EmojiShaper::EmojiShaper(const std::string&) { fail_missing(); }
EmojiShaper::~EmojiShaper() = default;
std::vector<uint32_t> EmojiShaper::shape(std::u32string_view) const { fail_missing(); }

struct EmojiFont::Handles {};
EmojiFont::EmojiFont(const std::string&) { fail_missing(); }
EmojiFont::~EmojiFont() = default;
Image EmojiFont::render(uint32_t) const { fail_missing(); }

CldrAnnotations read_cldr_annotations(const std::string&, const std::string&) { fail_missing(); }

}  // namespace matvlm
