// The keyword of each emoji: what "Name a keyword for it." is answered with. One rule over CLDR's annotations; for
// English its result is stored, because CLDR's keywords change between versions and the data set must not.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "data/emoji_list.h"

namespace matvlm {

// Unicode CLDR's annotations of one language, keyed by code points without variation selectors.
struct CldrAnnotations {
  std::map<std::u32string, std::vector<std::string>> keywords;
  std::map<std::u32string, std::string> names;
};

// Reads annotations/LANGUAGE.xml and annotationsDerived/LANGUAGE.xml below `folder` (pugixml). Errors name the file
// and, when it is missing, the package.
CldrAnnotations read_cldr_annotations(const std::string& folder, const std::string& language);

// Keyed by EmojiEntry::base: skin tones do not change the keyword.
using EmojiKeywords = std::map<std::u32string, std::string>;

// Of an emoji's keywords, those that share no word with its name (all but the name itself where none is left), and of
// these the one that most emoji have, the first of equals. So a keyword is a common thing that the name does not say.
EmojiKeywords choose_emoji_keywords(const std::vector<EmojiEntry>& list, const CldrAnnotations& cldr);

// The rule's result on CLDR 41 in English; for the emoji new in 15.0, which CLDR 41 lacks, chosen by hand.
EmojiKeywords pinned_english_keywords();
// The stored text: "keyword: emoji emoji | keyword: emoji ...", without variation selectors and skin tones.
extern const char* const kEmojiKeywordsEnglish;

}  // namespace matvlm
