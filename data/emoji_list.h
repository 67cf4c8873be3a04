// The list of emoji: Unicode's emoji-test.txt, cut down to Unicode 15.0 so that every system makes the same data set.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace matvlm {

struct EmojiEntry {
  std::u32string code_points;
  std::string name;      // "woman astronaut: medium skin tone"
  std::string group;     // "People & Body"
  std::string subgroup;  // "person-role"
  int version = 0;       // of Unicode's emoji, major * 100 + minor
  std::u32string base;   // code_points without skin tones and variation selectors
  std::u32string tones;  // the skin tones in order, U+1F3FB to U+1F3FF
};

inline constexpr int kEmojiVersion = 1500;

// The fully-qualified entries of `text` up to kEmojiVersion, in order of code points. Two entries that Unicode 15.1
// changed are given as 15.0 had them. Errors name `source` and the line.
std::vector<EmojiEntry> parse_emoji_list(std::string_view text, const std::string& source);
// The same of a file; an Error for a missing one names the package that brings it.
std::vector<EmojiEntry> read_emoji_list(const std::string& path);

// Hash of code points, names and groups, to compare with kEmojiListChecksum, that of Unicode 15.0.
uint64_t emoji_list_checksum(const std::vector<EmojiEntry>& list);
extern const uint64_t kEmojiListChecksum;

// "1f469-1f3fd-200d-1f680"
std::string emoji_id(std::u32string_view code_points);
std::string emoji_utf8(std::u32string_view code_points);
std::u32string emoji_from_utf8(std::string_view text);
std::u32string without_variation_selectors(std::u32string_view code_points);

// Error naming the package when `path` is no readable file.
void require_emoji_file(const std::string& path, const std::string& package);

}  // namespace matvlm
