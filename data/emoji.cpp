// Making of the emoji data set: list, names, glyphs, equal pictures, split, questions, files.
#include "data/emoji.h"

#include <omp.h>

#include <exception>
#include <functional>
#include <memory>
#include <sstream>

#include "core/error.h"
#include "core/file.h"
#include "data/emoji_font.h"
#include "data/emoji_keywords.h"
#include "data/emoji_questions.h"
#include "data/sha256.h"

namespace matvlm {
namespace {

constexpr std::array<uint8_t, 3> kWhite = {255, 255, 255};

// Calls work(font, i) for i in 0..n-1 on all cores, each with a font of its own because FreeType's faces are not shared
// between threads. Rethrows the error of the lowest i.
void for_each_picture(const std::string& font_path, int64_t n,
                      const std::function<void(const EmojiFont&, int64_t)>& work) {
  std::vector<std::unique_ptr<EmojiFont>> fonts(static_cast<size_t>(omp_get_max_threads()));
  for (auto& font : fonts) font = std::make_unique<EmojiFont>(font_path);
  std::exception_ptr error;
  int64_t error_at = n;
#pragma omp parallel for schedule(dynamic, 16)
  for (int64_t i = 0; i < n; ++i) {
    try {
      work(*fonts[static_cast<size_t>(omp_get_thread_num())], i);
    } catch (...) {
#pragma omp critical(matvlm_emoji_error)
      if (i < error_at) {
        error_at = i;
        error = std::current_exception();
      }
    }
  }
  if (error) std::rethrow_exception(error);
}

void check_options(const EmojiOptions& options) {
  check(options.image_size >= 8 && options.image_size <= 1024, "emoji: image size ", options.image_size,
        "; expected 8 to 1024");
  check(options.held_out_percent >= 0 && options.held_out_percent <= 20, "emoji: held-out percentage ",
        options.held_out_percent, "; expected 0 to 20");
  check(options.limit >= 0, "emoji: limit ", options.limit, "; expected 0 (all) or more");
}

// Names and keywords in the language; entries without either are reported.
std::vector<EmojiPicture> named_pictures(const std::vector<EmojiEntry>& list, const EmojiOptions& options,
                                         EmojiReport& report) {
  const bool english = options.language == "en";
  CldrAnnotations cldr;
  if (!english) cldr = read_cldr_annotations(options.cldr, options.language);
  const EmojiKeywords keywords = english ? pinned_english_keywords() : choose_emoji_keywords(list, cldr);
  std::vector<EmojiPicture> pictures;
  for (const EmojiEntry& entry : list) {
    EmojiPicture picture;
    picture.entry = entry;
    picture.name = entry.name;
    if (!english) {
      const auto name = cldr.names.find(without_variation_selectors(entry.code_points));
      if (name == cldr.names.end()) {
        report.left_out["no name in CLDR for language " + options.language].push_back(entry.name);
        continue;
      }
      picture.name = name->second;
    }
    const auto keyword = keywords.find(entry.base);
    if (keyword == keywords.end()) {
      report.left_out["no keyword for language " + options.language].push_back(entry.name);
      continue;
    }
    picture.keyword = keyword->second;
    pictures.push_back(picture);
  }
  return pictures;
}

std::vector<EmojiPicture> shaped_pictures(std::vector<EmojiPicture> pictures, const EmojiOptions& options,
                                          EmojiReport& report) {
  const EmojiShaper shaper(options.font);
  std::vector<EmojiPicture> kept;
  for (EmojiPicture& picture : pictures) {
    const std::vector<uint32_t> glyphs = shaper.shape(picture.entry.code_points);
    if (glyphs.size() != 1 || glyphs[0] == 0) {
      report.left_out["not one glyph in the font"].push_back(picture.entry.name);
      continue;
    }
    picture.glyph = glyphs[0];
    kept.push_back(std::move(picture));
  }
  return kept;
}

// The oldest emoji names its picture, then the shortest name: "flag: Norway", not "flag: Bouvet Island".
bool names_better(const EmojiPicture& a, const EmojiPicture& b) {
  if (a.entry.version != b.entry.version) return a.entry.version < b.entry.version;
  if (a.entry.name.size() != b.entry.name.size()) return a.entry.name.size() < b.entry.name.size();
  return a.entry.code_points < b.entry.code_points;
}

std::vector<EmojiPicture> distinct_pictures(const std::vector<EmojiPicture>& pictures, const EmojiOptions& options,
                                            EmojiReport& report) {
  std::vector<std::string> digests(pictures.size());
  for_each_picture(options.font, std::ssize(pictures), [&](const EmojiFont& font, int64_t i) {
    digests[static_cast<size_t>(i)] = sha256(font.render(pictures[static_cast<size_t>(i)].glyph).rgb);
  });
  std::map<std::string, size_t> best;
  for (size_t i = 0; i < pictures.size(); ++i) {
    const auto [place, is_new] = best.emplace(digests[i], i);
    if (!is_new && names_better(pictures[i], pictures[place->second])) place->second = i;
  }
  std::vector<EmojiPicture> kept;
  for (size_t i = 0; i < pictures.size(); ++i) {
    const size_t first = best.at(digests[i]);
    if (first == i) {
      kept.push_back(pictures[i]);
    } else {
      report.left_out["the same picture as another emoji"].push_back(
          cat(pictures[i].entry.name, " (= ", pictures[first].entry.name, ")"));
    }
  }
  return kept;
}

void write_pictures(const std::vector<EmojiPicture>& pictures, const EmojiOptions& options) {
  for_each_picture(options.font, std::ssize(pictures), [&](const EmojiFont& font, int64_t i) {
    const EmojiPicture& picture = pictures[static_cast<size_t>(i)];
    const Image square = pad_to_square(font.render(picture.glyph), kWhite);
    write_picture(options.out + "/images/" + emoji_image_path(picture.entry),
                  resize_bicubic(square, options.image_size, options.image_size));
  });
}

std::map<std::string, int64_t> count_questions(const std::vector<LlavaSample>& samples) {
  std::map<std::string, int64_t> counts;
  for (const LlavaSample& sample : samples) {
    for (const LlavaTurn& turn : sample.turns) ++counts[turn.category];
  }
  return counts;
}

std::string readme(const EmojiOptions& options, const EmojiReport& report) {
  std::ostringstream out;
  out << "Emoji pictures with questions, LLaVA JSON. Made by `matvlm data emoji`; the same options and packages make\n"
         "the same files.\n\n"
      << "pictures            " << options.font << ", alpha over white, " << options.image_size << " x "
      << options.image_size << "\n"
      << "names, groups       " << options.emoji_test << ", fully-qualified entries up to Unicode 15.0\n"
      << "language            " << options.language
      << (options.language == "en" ? ", keywords stored in the program (from Unicode CLDR 41)\n"
                                   : ", names and keywords from " + options.cldr + "\n")
      << "seed                " << options.seed << "\n"
      << "held out            " << options.held_out_percent << " % of the combinations of emoji and skin tones\n\n"
      << "train.json          four conversations a picture, two questions each\n"
      << "heldout.json        combinations that train.json lacks, one question a sample\n"
      << "images/             folder of the `image` entries\n"
      << "`categories` of a sample names the kind of each question: name, group, keyword or yes_no.\n\n"
      << report.text();
  for (const auto& [reason, names] : report.left_out) {
    out << "\nLeft out, " << reason << ":\n";
    for (const std::string& name : names) out << "  " << name << "\n";
  }
  return out.str();
}

}  // namespace

std::string EmojiReport::text() const {
  std::ostringstream out;
  out << "emoji listed        " << listed << (pinned_list ? " (the list of Unicode 15.0)" : "")
      << (pinned_list ? "" : " (not the whole list of Unicode 15.0)") << "\n";
  for (const auto& [reason, names] : left_out) out << "left out            " << names.size() << ": " << reason << "\n";
  out << "train               " << train_pictures << " pictures, " << train_samples << " samples\n";
  out << "held out            " << held_out_pictures << " pictures, " << held_out_samples << " samples\n";
  out << "questions           ";
  for (const auto& [category, count] : train_questions) {
    const auto held_out = held_out_questions.find(category);
    out << category << " " << count << " + " << (held_out == held_out_questions.end() ? 0 : held_out->second) << "  ";
  }
  out << "(train + held out)\n";
  return out.str();
}

EmojiReport make_emoji_dataset(const EmojiOptions& options) {
  check_options(options);
  std::vector<EmojiEntry> list = read_emoji_list(options.emoji_test);
  if (options.limit > 0 && options.limit < std::ssize(list)) list.resize(static_cast<size_t>(options.limit));
  EmojiReport report;
  report.listed = std::ssize(list);
  report.pinned_list = emoji_list_checksum(list) == kEmojiListChecksum;
  std::vector<EmojiPicture> pictures = shaped_pictures(named_pictures(list, options, report), options, report);
  pictures = distinct_pictures(pictures, options, report);
  hold_out_combinations(pictures, options.held_out_percent, options.seed);
  const std::vector<LlavaSample> train = emoji_train_samples(pictures, options.seed);
  const std::vector<LlavaSample> held_out = emoji_held_out_samples(pictures, options.seed);
  for (const EmojiPicture& picture : pictures) ++(picture.held_out ? report.held_out_pictures : report.train_pictures);
  report.train_samples = std::ssize(train);
  report.held_out_samples = std::ssize(held_out);
  report.train_questions = count_questions(train);
  report.held_out_questions = count_questions(held_out);

  make_dataset_folders(options.out);
  write_pictures(pictures, options);
  write_file_atomic(options.out + "/README.txt", readme(options, report));
  write_llava_json(options.out + "/heldout.json", held_out);
  write_llava_json(options.out + "/train.json", train);
  return report;
}

}  // namespace matvlm
