// The emoji list, the stored keywords and the questions, without font and shaping libraries.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "core/error.h"
#include "core/file.h"
#include "data/emoji.h"
#include "data/emoji_keywords.h"
#include "data/emoji_questions.h"

namespace matvlm {
namespace {

const std::string kHead = "# group: People & Body\n# subgroup: person-role\n";
const std::string kAstronaut =
    "1F469 1F3FD 200D 1F680 ; fully-qualified # \U0001F469 E4.0 woman astronaut: medium skin tone\n";

std::string message_of(const std::string& text) {
  try {
    parse_emoji_list(text, "list.txt");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(EmojiList, ParsesAnEntry) {
  const auto list = parse_emoji_list(kHead + kAstronaut + "2639 ; unqualified # x E0.7 frowning face\n", "list.txt");
  ASSERT_EQ(list.size(), 1U);
  EXPECT_EQ(list[0].name, "woman astronaut: medium skin tone");
  EXPECT_EQ(list[0].group, "People & Body");
  EXPECT_EQ(list[0].subgroup, "person-role");
  EXPECT_EQ(list[0].version, 400);
  EXPECT_EQ(list[0].base, U"\U0001F469\u200D\U0001F680");
  EXPECT_EQ(list[0].tones, U"\U0001F3FD");
  EXPECT_EQ(emoji_id(list[0].code_points), "1f469-1f3fd-200d-1f680");
  EXPECT_EQ(emoji_from_utf8(emoji_utf8(list[0].code_points)), list[0].code_points);
}

TEST(EmojiList, BadLines) {
  EXPECT_EQ(message_of(kAstronaut), "list.txt: line 1: an emoji before the first group and subgroup");
  EXPECT_EQ(message_of(kHead + "1F46X ; fully-qualified # x E1.0 name\n"),
            "list.txt: line 3: code point '1F46X'; expected a hexadecimal number up to 10FFFF");
  EXPECT_EQ(message_of(kHead + "110000 ; fully-qualified # x E1.0 name\n"),
            "list.txt: line 3: code point '110000'; expected a hexadecimal number up to 10FFFF");
  EXPECT_EQ(message_of(kHead + "1F469 ; fully-qualified # x Eone name\n"),
            "list.txt: line 3: emoji version 'Eone'; expected E<major>.<minor>");
  EXPECT_EQ(message_of(kHead + "1F469 ; fully-qualified\n"),
            "list.txt: line 3: no '# emoji E<version> name' after the status");
  EXPECT_EQ(message_of(kHead + "1F469 ; fully-qualified # x E1.0\n"), "list.txt: line 3: the emoji has no name");
  EXPECT_EQ(message_of(kHead + kAstronaut + kAstronaut), "list.txt: 1f469-1f3fd-200d-1f680 is listed twice");
  EXPECT_EQ(message_of(""), "list.txt: no fully-qualified emoji; expected Unicode's emoji-test.txt");
}

TEST(EmojiList, MissingFileNamesThePackage) {
  try {
    read_emoji_list("/nowhere/emoji-test.txt");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "/nowhere/emoji-test.txt: file not found; it comes with the package unicode-data (apt-get install "
                 "unicode-data)");
  }
}

// Replaces the only occurrence.
void replace(std::string& text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
}

TEST(EmojiList, LaterUnicodeGivesTheSameList) {
  const std::string path = EmojiOptions{}.emoji_test;
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is missing (package unicode-data)";
  std::string text = read_file(path);
  const auto list = parse_emoji_list(text, path);
  EXPECT_EQ(list.size(), 3655U);
  EXPECT_EQ(emoji_list_checksum(list), kEmojiListChecksum);
  if (text.find("flag: Turkey") == std::string::npos) return;  // already a later version
  // What 15.1 did: one name, one subgroup, new entries.
  replace(text, "flag: Turkey", "flag: Türkiye");
  const size_t family = text.find("\n1F46A ") + 1;
  const std::string line = text.substr(family, text.find('\n', family) + 1 - family);
  text.erase(family, line.size());
  const std::string symbols = "# subgroup: person-symbol\n";
  replace(text, symbols, symbols + line + "1F9D1 200D 1F9D2 ; fully-qualified # x E15.1 family: adult, child\n");
  EXPECT_EQ(emoji_list_checksum(parse_emoji_list(text, path)), kEmojiListChecksum);
  replace(text, "grinning face", "smiling face");
  EXPECT_NE(emoji_list_checksum(parse_emoji_list(text, path)), kEmojiListChecksum);
}

TEST(EmojiKeywords, EveryEmojiHasAStoredOne) {
  const std::string path = EmojiOptions{}.emoji_test;
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is missing (package unicode-data)";
  const EmojiKeywords keywords = pinned_english_keywords();
  std::set<std::u32string> bases;
  for (const EmojiEntry& entry : read_emoji_list(path)) bases.insert(entry.base);
  for (const std::u32string& base : bases) EXPECT_TRUE(keywords.contains(base)) << emoji_id(base);
  EXPECT_EQ(keywords.size(), bases.size());
  EXPECT_EQ(keywords.at(U"\U0001F34B"), "fruit");  // lemon
}

TEST(EmojiKeywords, TheRule) {
  std::vector<EmojiEntry> list(3);
  CldrAnnotations cldr;
  const std::vector<std::vector<std::string>> keywords = {
      {"citrus", "fruit", "lemon", "lemon tree"}, {"fruit", "red", "red apple"}, {"ball", "basket-ball", "the ball"}};
  const std::vector<std::string> names = {"lemon", "red apple", "the ball"};
  for (size_t i = 0; i < 3; ++i) {
    list[i].code_points = list[i].base = std::u32string(1, U'a' + static_cast<char32_t>(i));
    list[i].name = names[i];
    cldr.keywords[list[i].base] = keywords[i];
    cldr.names[list[i].base] = names[i];
  }
  const EmojiKeywords chosen = choose_emoji_keywords(list, cldr);
  EXPECT_EQ(chosen.at(U"a"), "fruit");        // more common than citrus
  EXPECT_EQ(chosen.at(U"b"), "fruit");        // "red" is a word of the name
  EXPECT_EQ(chosen.at(U"c"), "basket-ball");  // "ball" is, and a hyphen keeps a word together
}

// Twelve bases in five tones, four of them also in pairs of tones, and forty emoji without tones.
std::vector<EmojiPicture> made_up_pictures() {
  std::vector<EmojiPicture> pictures;
  const auto add = [&](const std::u32string& base, const std::u32string& tones, const std::string& name) {
    EmojiPicture picture;
    picture.entry.base = base;
    picture.entry.tones = tones;
    picture.entry.code_points = base + tones;
    picture.entry.group = tones.empty() ? "Objects" : "People & Body";
    picture.entry.subgroup = picture.entry.group + (base[0] % 2 == 0 ? "even" : "odd");
    picture.name = picture.entry.name = name;
    picture.keyword = "keyword";
    pictures.push_back(picture);
  };
  for (int b = 0; b < 52; ++b) {
    const std::u32string base(1, static_cast<char32_t>(0x1F600 + b));
    if (b >= 12) add(base, {}, cat("thing ", b));
    for (char32_t t = 0x1F3FB; b < 12 && t <= 0x1F3FF; ++t) {
      add(base, {t}, cat("person ", b, " tone ", t - 0x1F3FB));
      for (char32_t u = 0x1F3FB; b < 4 && u <= 0x1F3FF; ++u) {
        if (u != t) add(base, {t, u}, cat("person ", b, " tones ", t - 0x1F3FB, u - 0x1F3FB));
      }
    }
  }
  return pictures;
}

TEST(EmojiQuestions, HeldOutCombinationsHaveTheirPartsInTraining) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<EmojiPicture> pictures = made_up_pictures();
    hold_out_combinations(pictures, 20, seed);
    int64_t held_out = 0;
    for (const EmojiPicture& picture : pictures) {
      if (!picture.held_out) continue;
      ++held_out;
      const auto in_training = [&](bool same_base, bool same_tones) {
        return std::any_of(pictures.begin(), pictures.end(), [&](const EmojiPicture& other) {
          return !other.held_out && !other.entry.tones.empty() &&
                 (other.entry.base == picture.entry.base) == same_base &&
                 (other.entry.tones == picture.entry.tones) == same_tones;
        });
      };
      EXPECT_TRUE(in_training(true, false)) << picture.name;
      EXPECT_TRUE(in_training(false, true)) << picture.name;
      EXPECT_FALSE(picture.entry.tones.empty());
    }
    EXPECT_GT(held_out, 0);
    EXPECT_LT(held_out, 60);
  }
  std::vector<EmojiPicture> pictures = made_up_pictures();
  hold_out_combinations(pictures, 0, 0);
  for (const EmojiPicture& picture : pictures) EXPECT_FALSE(picture.held_out);
}

TEST(EmojiQuestions, TrainingConversationsAreBalancedAndGiveNothingAway) {
  std::vector<EmojiPicture> pictures = made_up_pictures();
  hold_out_combinations(pictures, 10, 3);
  const auto samples = emoji_train_samples(pictures, 3);
  std::set<std::string> held_out_names;
  int64_t pictures_in_training = 0;
  for (const EmojiPicture& picture : pictures) {
    if (picture.held_out) held_out_names.insert(picture.name);
    if (!picture.held_out) ++pictures_in_training;
  }
  ASSERT_FALSE(held_out_names.empty());
  ASSERT_EQ(std::ssize(samples), 4 * pictures_in_training);
  std::map<std::string, int64_t> first;
  std::map<std::string, int64_t> answers;
  for (const LlavaSample& sample : samples) {
    ASSERT_EQ(sample.turns.size(), 2U);
    ++first[sample.turns[0].category];
    std::set<std::string> kinds;
    for (const LlavaTurn& turn : sample.turns) {
      kinds.insert(turn.category);
      if (turn.category != "yes_no") continue;
      ++answers[turn.answer];
      const std::string said = turn.question.substr(8, turn.question.size() - 9);
      EXPECT_FALSE(held_out_names.contains(said)) << said;
      const auto of_picture = std::find_if(pictures.begin(), pictures.end(), [&](const EmojiPicture& p) {
        return emoji_image_path(p.entry) == sample.image;
      });
      EXPECT_EQ(said == of_picture->name, turn.answer == "yes");
    }
    EXPECT_FALSE(kinds.contains("name") && kinds.contains("yes_no"));
  }
  EXPECT_LE(std::abs(answers["yes"] - answers["no"]), 1);
  EXPECT_EQ(first.size(), 4U);
  for (const auto& [kind, count] : first) EXPECT_EQ(count, pictures_in_training) << kind;
}

TEST(EmojiQuestions, HeldOutQuestionsStandAlone) {
  std::vector<EmojiPicture> pictures = made_up_pictures();
  hold_out_combinations(pictures, 10, 3);
  const auto samples = emoji_held_out_samples(pictures, 3);
  std::map<std::string, int64_t> kinds;
  std::map<std::string, int64_t> answers;
  for (const LlavaSample& sample : samples) {
    ASSERT_EQ(sample.turns.size(), 1U);
    ++kinds[sample.turns[0].category];
    if (sample.turns[0].category == "yes_no") ++answers[sample.turns[0].answer];
  }
  EXPECT_EQ(kinds.size(), 4U);
  for (const auto& [kind, count] : kinds) EXPECT_EQ(count, kinds["name"]) << kind;
  EXPECT_LE(std::abs(answers["yes"] - answers["no"]), 1);
}

}  // namespace
}  // namespace matvlm
