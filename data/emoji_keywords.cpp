// The rule that chooses a keyword, and the reader of the stored English ones.
#include "data/emoji_keywords.h"

#include <algorithm>
#include <set>
#include <sstream>
#include <string_view>

#include "core/error.h"
#include "data/utf8.h"

namespace matvlm {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

// Letters, digits, hyphens, apostrophes and everything beyond ASCII belong to words.
std::set<std::string> words(std::string_view text) {
  std::set<std::string> out;
  std::string word;
  for (const char c : lower(text) + " ") {
    const bool inside = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '\'' || (c & 0x80) != 0;
    if (inside) {
      word.push_back(c);
    } else if (!word.empty()) {
      out.insert(word);
      word.clear();
    }
  }
  return out;
}

bool share_a_word(const std::set<std::string>& name, const std::string& keyword) {
  const std::set<std::string> other = words(keyword);
  return std::any_of(other.begin(), other.end(), [&](const std::string& word) { return name.contains(word); });
}

std::set<std::string> tone_names(const CldrAnnotations& cldr) {
  std::set<std::string> out;
  for (char32_t tone = 0x1F3FB; tone <= 0x1F3FF; ++tone) {
    if (const auto found = cldr.names.find({tone}); found != cldr.names.end()) out.insert(found->second);
  }
  return out;
}

struct Candidates {
  std::string name;
  std::vector<std::string> keywords;  // in CLDR's order, without skin tones
};

std::map<std::u32string, Candidates> collect(const std::vector<EmojiEntry>& list, const CldrAnnotations& cldr) {
  const std::set<std::string> tones = tone_names(cldr);
  std::map<std::u32string, Candidates> out;
  for (const EmojiEntry& entry : list) {
    const auto found = cldr.keywords.find(without_variation_selectors(entry.code_points));
    // The list is sorted, but the entry without tones does not come first everywhere; it is the one to take.
    if (found == cldr.keywords.end() || (out.contains(entry.base) && !entry.tones.empty())) continue;
    Candidates candidates;
    const auto name = cldr.names.find(without_variation_selectors(entry.code_points));
    candidates.name = name == cldr.names.end() ? entry.name : name->second;
    for (const std::string& keyword : found->second) {
      if (!tones.contains(keyword)) candidates.keywords.push_back(keyword);
    }
    out[entry.base] = candidates;
  }
  return out;
}

}  // namespace

EmojiKeywords choose_emoji_keywords(const std::vector<EmojiEntry>& list, const CldrAnnotations& cldr) {
  const std::map<std::u32string, Candidates> all = collect(list, cldr);
  std::map<std::string, int64_t> uses;
  for (const auto& [base, candidates] : all) {
    for (const std::string& keyword : candidates.keywords) ++uses[keyword];
  }
  EmojiKeywords chosen;
  for (const auto& [base, candidates] : all) {
    const std::set<std::string> name_words = words(candidates.name);
    int best_rank = -1;
    std::string best;
    for (const std::string& keyword : candidates.keywords) {
      const int rank = lower(keyword) == lower(candidates.name) ? 0 : share_a_word(name_words, keyword) ? 1 : 2;
      if (rank < best_rank || (rank == best_rank && uses[keyword] <= uses[best])) continue;
      best_rank = rank;
      best = keyword;
    }
    if (best_rank >= 0) chosen[base] = best;
  }
  return chosen;
}

EmojiKeywords pinned_english_keywords() {
  EmojiKeywords out;
  std::string_view text = kEmojiKeywordsEnglish;
  while (!text.empty()) {
    const std::string_view item = strip(text.substr(0, text.find('|')));
    text.remove_prefix(std::min(text.find('|'), text.size() - 1) + 1);
    const size_t colon = item.find(": ");
    check(colon != std::string_view::npos && colon > 0, "the stored keywords: no 'keyword: ' in '", item, "'");
    std::istringstream emoji{std::string(item.substr(colon + 2))};
    for (std::string one; emoji >> one;) {
      const bool is_new = out.emplace(emoji_from_utf8(one), item.substr(0, colon)).second;
      check(is_new, "the stored keywords: ", one, " stands there twice");
    }
  }
  return out;
}

}  // namespace matvlm
