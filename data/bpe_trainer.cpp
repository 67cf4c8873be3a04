// BPE training with incremental pair counts: each merge touches only the words that hold the pair, and a heap with
// lazy updates gives the next pair.
#include "data/bpe_trainer.h"

#include <algorithm>
#include <map>
#include <queue>
#include <unordered_map>

#include "core/error.h"
#include "data/byte_alphabet.h"

namespace matvlm {
namespace {

struct Word {
  std::vector<int32_t> symbols;
  int64_t count = 0;
};

struct Pair {
  int64_t count = 0;
  std::vector<int64_t> words;  // that held the pair at some time, possibly repeated
};

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32U | static_cast<uint32_t>(right);
}
int32_t left_of(uint64_t key) { return static_cast<int32_t>(key >> 32U); }
int32_t right_of(uint64_t key) { return static_cast<int32_t>(key & 0xFFFFFFFFU); }

std::map<std::string, int64_t> count_words(const std::vector<std::string>& texts, const AddedTokenMatcher& specials) {
  std::map<std::string, int64_t> counts;
  std::vector<TextPiece> parts;
  std::vector<std::string_view> words;
  for (const std::string& text : texts) {
    parts.clear();
    specials.split(text, parts);
    for (const TextPiece& part : parts) {
      if (part.id >= 0) continue;
      words.clear();
      split_text(part.text, SplitPattern::gpt2, words);
      for (const std::string_view word : words) ++counts[std::string(word)];
    }
  }
  return counts;
}

class Trainer {
 public:
  Trainer(const std::map<std::string, int64_t>& counts, std::vector<std::string> tokens, int32_t first_byte)
      : tokens_(std::move(tokens)) {
    std::vector<int32_t> id_of_byte(256);
    for (size_t i = 0; i < 256; ++i) {
      const std::optional<std::string> bytes = from_byte_characters(tokens_[static_cast<size_t>(first_byte) + i]);
      id_of_byte[static_cast<uint8_t>(bytes->front())] = first_byte + static_cast<int32_t>(i);
    }
    for (const auto& [text, count] : counts) {
      Word word;
      word.count = count;
      for (const char byte : text) word.symbols.push_back(id_of_byte[static_cast<uint8_t>(byte)]);
      words_.push_back(std::move(word));
    }
    for (size_t w = 0; w < words_.size(); ++w) {
      const std::vector<int32_t>& symbols = words_[w].symbols;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        change_count(pair_key(symbols[i], symbols[i + 1]), words_[w].count, static_cast<int64_t>(w));
      }
    }
    for (const auto& [key, pair] : pairs_) queue_.push(candidate(key, pair.count));
    touched_.clear();
  }

  // Merges the next pair; false when none reaches min_count.
  bool merge_next(int64_t min_count) {
    while (!queue_.empty()) {
      const Candidate best = queue_.top();
      queue_.pop();
      const int64_t count = pairs_[best.key].count;
      if (count != best.count) continue;  // a newer entry is in the heap
      if (count < min_count) return false;
      merge(best.key);
      return true;
    }
    return false;
  }

  const std::vector<std::string>& tokens() const { return tokens_; }
  const std::vector<uint64_t>& merges() const { return merges_; }

 private:
  struct Candidate {
    int64_t count;
    uint64_t key;
    std::string left;  // token bytes, for ties
    std::string right;
    bool operator<(const Candidate& other) const {  // std::priority_queue gives the largest
      if (count != other.count) return count < other.count;
      return left != other.left ? left > other.left : right > other.right;
    }
  };

  Candidate candidate(uint64_t key, int64_t count) const {
    return {count, key, *from_byte_characters(tokens_[static_cast<size_t>(left_of(key))]),
            *from_byte_characters(tokens_[static_cast<size_t>(right_of(key))])};
  }

  void change_count(uint64_t key, int64_t by, int64_t word) {
    Pair& pair = pairs_[key];
    pair.count += by;
    if (by > 0 && (pair.words.empty() || pair.words.back() != word)) pair.words.push_back(word);
    touched_.push_back(key);
  }

  void merge(uint64_t key) {
    const auto merged = static_cast<int32_t>(tokens_.size());
    tokens_.push_back(tokens_[static_cast<size_t>(left_of(key))] + tokens_[static_cast<size_t>(right_of(key))]);
    merges_.push_back(key);
    const std::vector<int64_t> words = std::move(pairs_[key].words);
    touched_.clear();
    for (const int64_t w : words) merge_in_word(w, key, merged);
    pairs_.erase(key);
    std::sort(touched_.begin(), touched_.end());
    touched_.erase(std::unique(touched_.begin(), touched_.end()), touched_.end());
    for (const uint64_t changed : touched_) {
      const auto place = pairs_.find(changed);
      if (place != pairs_.end() && place->second.count > 0) queue_.push(candidate(changed, place->second.count));
    }
  }

  void merge_in_word(int64_t w, uint64_t key, int32_t merged) {
    Word& word = words_[static_cast<size_t>(w)];
    std::vector<int32_t>& symbols = word.symbols;
    const int32_t left = left_of(key);
    const int32_t right = right_of(key);
    std::vector<int32_t> out;
    out.reserve(symbols.size());
    for (size_t i = 0; i < symbols.size(); ++i) {
      const bool hit = i + 1 < symbols.size() && symbols[i] == left && symbols[i + 1] == right;
      out.push_back(hit ? merged : symbols[i]);
      if (hit) ++i;
    }
    if (out.size() == symbols.size()) return;
    // Counts of all pairs of the old word go, those of the new word come: simple, and words are short.
    for (size_t i = 0; i + 1 < symbols.size(); ++i) change_count(pair_key(symbols[i], symbols[i + 1]), -word.count, w);
    for (size_t i = 0; i + 1 < out.size(); ++i) change_count(pair_key(out[i], out[i + 1]), word.count, w);
    symbols.swap(out);
  }

  std::vector<std::string> tokens_;
  std::vector<Word> words_;
  std::unordered_map<uint64_t, Pair> pairs_;
  std::vector<uint64_t> touched_;
  std::vector<uint64_t> merges_;
  std::priority_queue<Candidate> queue_;
};

Json byte_level_step() {
  Json step = Json::object();
  step.set("type", "ByteLevel").set("add_prefix_space", false).set("trim_offsets", true).set("use_regex", true);
  return step;
}

Json added_token(const std::string& content, int64_t id) {
  Json token = Json::object();
  token.set("id", id).set("content", content).set("single_word", false).set("lstrip", false).set("rstrip", false);
  token.set("normalized", false).set("special", true);
  return token;
}

Json bpe_document(const Trainer& trainer, const std::vector<std::string>& special_tokens) {
  const std::vector<std::string>& tokens = trainer.tokens();
  Json vocabulary = Json::object();
  for (size_t id = 0; id < tokens.size(); ++id) vocabulary.set(tokens[id], static_cast<int64_t>(id));
  Json merges = Json::array();
  for (const uint64_t key : trainer.merges()) {
    merges.push(Json::of(tokens[static_cast<size_t>(left_of(key))] + " " + tokens[static_cast<size_t>(right_of(key))]));
  }
  Json model = Json::object();
  model.set("type", "BPE").set("dropout", Json()).set("unk_token", Json()).set("continuing_subword_prefix", Json());
  model.set("end_of_word_suffix", Json()).set("fuse_unk", false).set("byte_fallback", false);
  model.set("ignore_merges", false).set("vocab", vocabulary).set("merges", merges);
  Json added = Json::array();
  for (size_t i = 0; i < special_tokens.size(); ++i)
    added.push(added_token(special_tokens[i], static_cast<int64_t>(i)));
  Json document = Json::object();
  document.set("version", "1.0").set("truncation", Json()).set("padding", Json()).set("added_tokens", added);
  document.set("normalizer", Json()).set("pre_tokenizer", byte_level_step());
  document.set("post_processor", Json()).set("decoder", byte_level_step()).set("model", model);
  return document;
}

}  // namespace

Tokenizer train_bpe(const std::vector<std::string>& texts, const BpeTrainerOptions& options) {
  std::vector<std::string> tokens = options.special_tokens;
  AddedTokenMatcher specials;
  for (size_t i = 0; i < tokens.size(); ++i) {
    check(!tokens[i].empty(), "tokenizer: found an empty special token, expected text");
    AddedToken token;
    token.content = tokens[i];
    token.id = static_cast<int32_t>(i);
    specials.add(token);
  }
  const auto first_byte = static_cast<int32_t>(tokens.size());
  // In the order of the characters' code points, as Hugging Face's trainer numbers them.
  std::vector<std::string> alphabet;
  for (int byte = 0; byte < 256; ++byte) alphabet.push_back(byte_character(static_cast<uint8_t>(byte)));
  std::sort(alphabet.begin(), alphabet.end());
  tokens.insert(tokens.end(), alphabet.begin(), alphabet.end());
  check(options.vocab_size >= static_cast<int64_t>(tokens.size()), "tokenizer: found vocab_size ", options.vocab_size,
        ", expected at least ", tokens.size(), " (256 bytes and the special tokens)");
  Trainer trainer(count_words(texts, specials), std::move(tokens), first_byte);
  while (static_cast<int64_t>(trainer.tokens().size()) < options.vocab_size && trainer.merge_next(options.min_count)) {
  }
  return Tokenizer::from_json(bpe_document(trainer, options.special_tokens));
}

}  // namespace matvlm
