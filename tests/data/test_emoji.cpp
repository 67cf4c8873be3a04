// The emoji data set on this machine's font: shaping, pictures, the written files. Without the packages the tests say
// which file or library is missing.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "data/emoji.h"
#include "data/emoji_font.h"
#include "data/emoji_keywords.h"
#include "data/image.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

// Why the data set cannot be made here; empty when it can.
std::string why_not(const std::vector<std::string>& files) {
  for (const std::string& file : files) {
    if (!std::filesystem::exists(file)) return file + " is missing";
  }
  try {
    const EmojiShaper shaper(EmojiOptions{}.font);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

#define NEED_EMOJI_FILES(...)                         \
  const std::string missing = why_not({__VA_ARGS__}); \
  if (!missing.empty()) GTEST_SKIP() << missing

Image decode_file(const std::string& path) {
  const std::string bytes = read_file(path);
  return decode_image({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, path);
}

std::string message_of(const EmojiOptions& options) {
  try {
    make_emoji_dataset(options);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Emoji, SequencesShapeToOneGlyph) {
  const std::string font = EmojiOptions{}.font;
  NEED_EMOJI_FILES(font);
  const EmojiShaper shaper(font);
  const std::map<std::string, std::u32string> one_glyph = {
      {"joined", U"\U0001F469\u200D\U0001F680"},
      {"joined, with tone", U"\U0001F469\U0001F3FD\u200D\U0001F680"},
      {"flag", U"\U0001F1F3\U0001F1F4"},
      {"flag of tags", U"\U0001F3F4\U000E0067\U000E0062\U000E0073\U000E0063\U000E0074\U000E007F"},
      {"keycap", U"7\uFE0F\u20E3"},
      {"variation selector", U"\u2639\uFE0F"},
  };
  std::set<uint32_t> glyphs;
  for (const auto& [what, text] : one_glyph) {
    const auto shaped = shaper.shape(text);
    ASSERT_EQ(shaped.size(), 1U) << what;
    EXPECT_NE(shaped[0], 0U) << what;
    glyphs.insert(shaped[0]);
  }
  EXPECT_EQ(glyphs.size(), one_glyph.size());
  EXPECT_EQ(shaper.shape(U"\U0001F469\U0001F680").size(), 2U);     // woman, rocket
  EXPECT_EQ(shaper.shape(U"\u4E2D"), (std::vector<uint32_t>{0}));  // not in the font
}

TEST(Emoji, PicturesAreOverWhite) {
  const std::string font = EmojiOptions{}.font;
  NEED_EMOJI_FILES(font);
  const EmojiShaper shaper(font);
  const EmojiFont pictures(font);
  const Image heart = pictures.render(shaper.shape(U"\U0001F5A4").at(0));  // black heart
  EXPECT_EQ(heart.width, 136);
  EXPECT_EQ(heart.height, 128);
  EXPECT_EQ(std::vector<uint8_t>(heart.rgb.begin(), heart.rgb.begin() + 3), (std::vector<uint8_t>{255, 255, 255}));
  const auto middle = static_cast<size_t>((heart.height / 2 * heart.width + heart.width / 2) * 3);
  EXPECT_LT(heart.rgb[middle], 100);
  EXPECT_THROW(pictures.render(0xFFFFFF), Error);
}

// Every value of `key` in a sample array.
std::set<std::string> names_asked(const Json& samples) {
  std::set<std::string> names;
  for (int64_t i = 0; i < samples.size(); ++i) {
    const Json sample = samples.at(i);
    for (int64_t t = 0; t < sample.at("categories").size(); ++t) {
      if (sample.at("categories").at(t).as_string() != "name") continue;
      names.insert(sample.at("conversations").at(2 * t + 1).at("value").as_string());
    }
  }
  return names;
}

void expect_llava(const Json& samples, const std::string& folder) {
  for (int64_t i = 0; i < samples.size(); ++i) {
    const Json sample = samples.at(i);
    const Json conversations = sample.at("conversations");
    ASSERT_EQ(conversations.size(), 2 * sample.at("categories").size());
    ASSERT_TRUE(std::filesystem::exists(folder + "/images/" + sample.at("image").as_string()));
    for (int64_t t = 0; t < conversations.size(); ++t) {
      ASSERT_EQ(conversations.at(t).at("from").as_string(), t % 2 == 0 ? "human" : "gpt");
      const std::string value = conversations.at(t).at("value").as_string();
      ASSERT_EQ(value.rfind("<image>\n", 0) == 0, t == 0) << value;
    }
  }
}

// "man: medium skin tone" -> "man", "medium skin tone"; two people have "tone, tone".
std::pair<std::string, std::string> base_and_tones(const std::string& name) {
  std::string base;
  std::string tones;
  const std::string& rest = name;
  for (size_t at = 0; at < rest.size();) {
    const size_t end = std::min({rest.find(": ", at), rest.find(", ", at), rest.size()});
    const std::string part = rest.substr(at, end - at);
    (part.ends_with("skin tone") ? tones : base) += part + ";";
    at = end + 2;
  }
  return {base, tones};
}

TEST(Emoji, WholeDataSet) {
  EmojiOptions options;
  NEED_EMOJI_FILES(options.font, options.emoji_test);
  const testing::TempDir dir;
  options.out = dir.file("emoji");
  options.image_size = 32;
  const EmojiReport report = make_emoji_dataset(options);
  EXPECT_EQ(report.listed, 3655);
  EXPECT_TRUE(report.pinned_list);
  EXPECT_FALSE(report.left_out.contains("not one glyph in the font")) << report.text();
  int64_t left_out = 0;
  for (const auto& [reason, names] : report.left_out) left_out += std::ssize(names);
  EXPECT_EQ(report.train_pictures + report.held_out_pictures + left_out, 3655);
  EXPECT_LT(left_out, 30) << report.text();
  const auto& equal = report.left_out.at("the same picture as another emoji");
  EXPECT_TRUE(std::count(equal.begin(), equal.end(), "flag: Bouvet Island (= flag: Norway)")) << report.text();
  EXPECT_NEAR(static_cast<double>(report.held_out_pictures), 178, 40);  // a tenth of 1785 with tones
  EXPECT_EQ(report.train_samples, 4 * report.train_pictures);
  EXPECT_EQ(report.held_out_samples, 4 * report.held_out_pictures);
  EXPECT_EQ(read_file(options.out + "/README.txt").find(report.text()) != std::string::npos, true);

  const Json train = Json::read_file(options.out + "/train.json");
  const Json held_out = Json::read_file(options.out + "/heldout.json");
  ASSERT_EQ(train.size(), report.train_samples);
  ASSERT_EQ(held_out.size(), report.held_out_samples);
  expect_llava(train, options.out);
  expect_llava(held_out, options.out);
  EXPECT_EQ(decode_file(options.out + "/images/" + train.at(0).at("image").as_string()).width, 32);

  const std::set<std::string> train_names = names_asked(train);
  std::set<std::string> train_bases;
  std::set<std::string> train_tones;
  for (const std::string& name : train_names) {
    train_bases.insert(base_and_tones(name).first);
    train_tones.insert(base_and_tones(name).second);
  }
  for (const std::string& name : names_asked(held_out)) {
    EXPECT_FALSE(train_names.contains(name)) << name;
    EXPECT_TRUE(train_bases.contains(base_and_tones(name).first)) << name;
    EXPECT_TRUE(train_tones.contains(base_and_tones(name).second)) << name;
  }
}

TEST(Emoji, SameOptionsGiveTheSameBytes) {
  EmojiOptions options;
  NEED_EMOJI_FILES(options.font, options.emoji_test);
  const testing::TempDir dir;
  options.limit = 300;
  std::map<std::string, std::string> first;
  for (const std::string run : {"one", "two"}) {
    options.out = dir.file(run);
    make_emoji_dataset(options);
    for (const auto& entry : std::filesystem::recursive_directory_iterator(options.out)) {
      if (!entry.is_regular_file()) continue;
      const std::string name = std::filesystem::relative(entry.path(), options.out);
      const std::string bytes = read_file(entry.path());
      if (run == "one") {
        first[name] = bytes;
      } else {
        EXPECT_EQ(first.at(name), bytes) << name;
      }
    }
  }
  EXPECT_GT(first.size(), 250U);
  EXPECT_EQ(decode_file(options.out + "/images/a9-fe0f.png").width, 136);
  options.seed = 1;
  make_emoji_dataset(options);
  EXPECT_NE(read_file(options.out + "/train.json"), first.at("train.json"));
}

TEST(Emoji, StoredKeywordsAreThoseOfCldr41) {
  const EmojiOptions options;
  NEED_EMOJI_FILES(options.emoji_test, options.cldr + "/annotations/en.xml");
  const auto list = read_emoji_list(options.emoji_test);
  const EmojiKeywords pinned = pinned_english_keywords();
  const EmojiKeywords chosen = choose_emoji_keywords(list, read_cldr_annotations(options.cldr, "en"));
  int64_t same = 0;
  for (const auto& [base, keyword] : chosen) same += pinned.at(base) == keyword ? 1 : 0;
  const std::string dtd = read_file(options.cldr + "/dtd/ldml.dtd");
  if (dtd.find("cldrVersion CDATA #FIXED \"41\"") != std::string::npos) {
    EXPECT_EQ(same, std::ssize(chosen));
    EXPECT_EQ(chosen.size() + 21, pinned.size());
  } else {
    EXPECT_GT(same, std::ssize(chosen) / 3);  // later versions choose other words for many, not for nearly all
  }
}

TEST(Emoji, OtherLanguages) {
  EmojiOptions options;
  NEED_EMOJI_FILES(options.font, options.emoji_test, options.cldr + "/annotations/de.xml");
  const testing::TempDir dir;
  options.out = dir.file("de");
  options.language = "de";
  options.limit = 400;
  options.image_size = 16;
  make_emoji_dataset(options);
  EXPECT_TRUE(names_asked(Json::read_file(options.out + "/train.json")).contains("Taste: 3"));
}

TEST(Emoji, Messages) {
  EmojiOptions options;
  NEED_EMOJI_FILES(options.font, options.emoji_test);
  const testing::TempDir dir;
  options.out = dir.file("out");
  options.limit = 5;
  EmojiOptions bad = options;
  bad.font = "/nowhere/NotoColorEmoji.ttf";
  EXPECT_EQ(message_of(bad),
            "/nowhere/NotoColorEmoji.ttf: file not found; it comes with the package fonts-noto-color-emoji (apt-get "
            "install fonts-noto-color-emoji)");
  bad.font = options.emoji_test;
  EXPECT_EQ(message_of(bad).rfind(options.emoji_test + ": ", 0), 0U);
  bad = options;
  bad.language = "../en";
  EXPECT_EQ(message_of(bad), "language '../en'; expected a CLDR locale such as en, de or pt_PT");
  bad.language = "xx";
  bad.cldr = "/nowhere";
  EXPECT_EQ(message_of(bad),
            "/nowhere/annotations/xx.xml: file not found; it comes with the package unicode-cldr-core (apt-get install "
            "unicode-cldr-core)");
  std::filesystem::create_directories(dir.file("cldr/annotations"));
  write_file_atomic(dir.file("cldr/annotations/xx.xml"), "<ldml><annotations>");
  bad.cldr = dir.file("cldr");
  EXPECT_EQ(message_of(bad).rfind(dir.file("cldr/annotations/xx.xml") + ": byte ", 0), 0U) << message_of(bad);
  bad = options;
  bad.image_size = 0;
  EXPECT_EQ(message_of(bad), "emoji: image size 0; expected 8 to 1024");
  bad = options;
  bad.out = dir.file("file");
  write_file_atomic(bad.out, "in the way");
  EXPECT_EQ(message_of(bad).rfind(bad.out + ": cannot make the folder for the data set: ", 0), 0U) << message_of(bad);
}

}  // namespace
}  // namespace matvlm
