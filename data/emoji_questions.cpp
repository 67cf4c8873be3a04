// Held-out combinations and conversations of the emoji data set. All choices are hashes of the emoji, so they neither
// depend on each other nor on the order of the list.
#include "data/emoji_questions.h"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <set>

#include "core/error.h"

namespace matvlm {
namespace {

enum Kind { kName, kGroup, kKeyword, kYesNo };

// The conversations of a picture; pictures take turns. Every kind opens one conversation of every picture, because the
// evaluation asks each question alone: what is only learnt as a second question is not answered as a first one. "Is
// this X?" gives the name away, so it never meets the name question.
using Conversations = std::array<std::array<Kind, 2>, 4>;
constexpr std::array<Conversations, 2> kConversations = {{
    {{{kName, kKeyword}, {kKeyword, kName}, {kGroup, kYesNo}, {kYesNo, kGroup}}},
    {{{kName, kGroup}, {kGroup, kName}, {kKeyword, kYesNo}, {kYesNo, kKeyword}}},
}};

uint64_t choice(const EmojiPicture& picture, const char* purpose, uint64_t seed) {
  return stable_hash(cat(emoji_id(picture.entry.code_points), '/', purpose), seed);
}

// Indices of the pictures of one split in an order of hashes: taking turns along it balances any choice exactly.
std::vector<size_t> shuffled(const std::vector<EmojiPicture>& pictures, bool held_out, const char* purpose,
                             uint64_t seed) {
  std::vector<std::pair<uint64_t, size_t>> keyed;
  for (size_t i = 0; i < pictures.size(); ++i) {
    if (pictures[i].held_out == held_out) keyed.emplace_back(choice(pictures[i], purpose, seed), i);
  }
  std::sort(keyed.begin(), keyed.end());
  std::vector<size_t> order;
  for (const auto& [key, index] : keyed) order.push_back(index);
  return order;
}

// Names that a yes/no question may wrongly say, by what they have in common with the picture.
class WrongNames {
 public:
  WrongNames(const std::vector<EmojiPicture>& pictures, bool with_held_out) {
    for (const EmojiPicture& picture : pictures) {
      if (picture.held_out && !with_held_out) continue;
      all_.push_back(picture.name);
      of_subgroup_[picture.entry.subgroup].push_back(picture.name);
      of_base_[picture.entry.base].push_back(picture.name);
    }
  }

  // A quarter in another skin tone, a quarter of the same subgroup, the rest anything; where there is no other name of
  // the closer kind, of the next wider one.
  std::string pick(const EmojiPicture& picture, uint64_t hash) const {
    const std::array<const std::vector<std::string>*, 3> pools = {&of_base_.at(picture.entry.base),
                                                                  &of_subgroup_.at(picture.entry.subgroup), &all_};
    for (size_t pool = std::min<size_t>(hash & 3, 2); pool < pools.size(); ++pool) {
      const std::vector<std::string>& names = *pools[pool];
      for (size_t step = 0; step < names.size(); ++step) {
        const std::string& name = names[((hash >> 8) + step) % names.size()];
        if (name != picture.name) return name;
      }
    }
    fail("the emoji data set has only one name, '", picture.name, "'; yes/no questions need two");
  }

 private:
  std::vector<std::string> all_;
  std::map<std::string, std::vector<std::string>> of_subgroup_;
  std::map<std::u32string, std::vector<std::string>> of_base_;
};

// Exactly half of a split's answers are yes. Only entries of pictures of that split are filled. `other`: the same with
// yes and no exchanged.
std::vector<LlavaTurn> yes_no_turns(const std::vector<EmojiPicture>& pictures, bool held_out, uint64_t seed,
                                    bool other = false) {
  const WrongNames wrong(pictures, held_out);
  std::vector<LlavaTurn> turns(pictures.size());
  bool yes = !other;
  for (const size_t i : shuffled(pictures, held_out, "yes or no", seed)) {
    const std::string name = yes ? pictures[i].name : wrong.pick(pictures[i], choice(pictures[i], "wrong name", seed));
    turns[i] = {"yes_no", "Is this " + name + "?", yes ? "yes" : "no"};
    yes = !yes;
  }
  return turns;
}

LlavaTurn turn_of(Kind kind, const EmojiPicture& picture, const LlavaTurn& yes_no) {
  switch (kind) {
    case kName:
      return {"name", "What is this?", picture.name};
    case kGroup:
      return {"group", "Which group is it in?", picture.entry.group};
    case kKeyword:
      return {"keyword", "Name a keyword for it.", picture.keyword};
    case kYesNo:
      return yes_no;
  }
  fail("unknown kind of question");
}

void choose_single_tones(std::vector<EmojiPicture>& pictures, int64_t percent, uint64_t seed) {
  std::map<std::u32string, std::vector<size_t>> variants;
  for (size_t i = 0; i < pictures.size(); ++i) {
    if (pictures[i].entry.tones.size() == 1) variants[pictures[i].entry.base].push_back(i);
  }
  // At most one of a base's variants (five), so that the base keeps its other tones.
  for (const auto& [base, of_base] : variants) {
    const uint64_t hash = stable_hash("held out/" + emoji_utf8(base), seed);
    if (static_cast<int64_t>(hash % 100) < percent * std::ssize(of_base)) {
      pictures[of_base[(hash >> 16) % of_base.size()]].held_out = true;
    }
  }
}

}  // namespace

void hold_out_combinations(std::vector<EmojiPicture>& pictures, int64_t percent, uint64_t seed) {
  choose_single_tones(pictures, percent, seed);
  for (EmojiPicture& picture : pictures) {
    if (picture.entry.tones.size() < 2) continue;
    picture.held_out = static_cast<int64_t>(choice(picture, "held out", seed) % 100) < percent;
  }
  // Give back what would leave its base or its tones unseen in training.
  std::map<std::u32string, std::set<std::u32string>> tones_of_base;
  std::map<std::u32string, std::set<std::u32string>> bases_of_tones;
  for (const EmojiPicture& picture : pictures) {
    if (picture.held_out || picture.entry.tones.empty()) continue;
    tones_of_base[picture.entry.base].insert(picture.entry.tones);
    bases_of_tones[picture.entry.tones].insert(picture.entry.base);
  }
  for (EmojiPicture& picture : pictures) {
    picture.held_out =
        picture.held_out && !tones_of_base[picture.entry.base].empty() && !bases_of_tones[picture.entry.tones].empty();
  }
}

std::vector<LlavaSample> emoji_train_samples(const std::vector<EmojiPicture>& pictures, uint64_t seed) {
  // A picture's two yes/no questions have different answers.
  const std::vector<LlavaTurn> yes_no = yes_no_turns(pictures, false, seed);
  const std::vector<LlavaTurn> other_yes_no = yes_no_turns(pictures, false, seed, true);
  std::vector<size_t> pattern(pictures.size());
  size_t rank = 0;
  for (const size_t i : shuffled(pictures, false, "conversations", seed)) pattern[i] = rank++ % kConversations.size();
  std::vector<LlavaSample> samples;
  for (size_t i = 0; i < pictures.size(); ++i) {
    if (pictures[i].held_out) continue;
    char letter = 'a';
    for (const auto& kinds : kConversations[pattern[i]]) {
      LlavaSample sample{
          emoji_id(pictures[i].entry.code_points) + "/" + letter++, emoji_image_path(pictures[i].entry), {}};
      const LlavaTurn& question = kinds[0] == kYesNo ? other_yes_no[i] : yes_no[i];
      for (const Kind kind : kinds) sample.turns.push_back(turn_of(kind, pictures[i], question));
      samples.push_back(std::move(sample));
    }
  }
  return samples;
}

std::vector<LlavaSample> emoji_held_out_samples(const std::vector<EmojiPicture>& pictures, uint64_t seed) {
  const std::vector<LlavaTurn> yes_no = yes_no_turns(pictures, true, seed);
  std::vector<LlavaSample> samples;
  for (size_t i = 0; i < pictures.size(); ++i) {
    if (!pictures[i].held_out) continue;
    for (const Kind kind : {kName, kGroup, kKeyword, kYesNo}) {
      LlavaTurn turn = turn_of(kind, pictures[i], yes_no[i]);
      samples.push_back(
          {emoji_id(pictures[i].entry.code_points) + "/" + turn.category, emoji_image_path(pictures[i].entry), {turn}});
    }
  }
  return samples;
}

std::string emoji_image_path(const EmojiEntry& entry) { return emoji_id(entry.code_points) + ".png"; }

}  // namespace matvlm
