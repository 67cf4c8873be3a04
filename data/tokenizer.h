// Byte-level BPE tokenizer of a Hugging Face `tokenizer.json`: added tokens, normalization form C, pre-tokenisation
// (ByteLevel, with Digits or Split before it), merges by rank, and back. Every object is complete after construction
// and const, so threads may share it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/json.h"
#include "data/added_tokens.h"
#include "data/bpe_tables.h"
#include "data/pretokenizer.h"
#include "data/regex.h"

namespace matvlm {

class Tokenizer {
 public:
  // Errors name the file and the key: unknown model type, normalizer, pattern or decoder; missing keys; duplicate ids;
  // a merge that names an unknown token.
  static Tokenizer read_file(const std::string& path);
  static Tokenizer from_json(const Json& document);

  // Ids of `text`; neither begin nor end tokens are added. A byte that the vocabulary lacks becomes its unknown token
  // or, where it has none, nothing, as in Hugging Face tokenizers (SmolLM2's lacks some that are rare).
  std::vector<int32_t> encode(std::string_view text) const;

  // Text of `ids`, parts that are not valid UTF-8 replaced by U+FFFD. Ids without a token (a model's head may have more
  // rows than the tokenizer has tokens) give nothing.
  std::string decode(std::span<const int32_t> ids, bool skip_special) const;

  // Bytes of one token, which may be a part of a character. Empty for an id without a token.
  std::string token_bytes(int32_t id) const;
  bool is_special(int32_t id) const;
  std::optional<int32_t> token_to_id(std::string_view token) const;

  // The largest id + 1.
  int64_t vocab_size() const { return static_cast<int64_t>(tokens_.size()); }

  // What the post-processor puts before every text (a begin-of-text token, say); empty for Phi and GPT-2.
  const std::vector<int32_t>& prefix_ids() const { return prefix_ids_; }

  // Hash of the document: equal for two tokenizers only if they were read from the same JSON content.
  const std::string& sha256() const { return sha256_; }

  // Writes the document that this tokenizer was made from. The file appears complete or not at all.
  void save(const std::string& path) const;

 private:
  struct Token {
    std::string text;  // as in the file
    std::string bytes;
    bool used = false;
    bool special = false;
  };
  struct Symbol;

  Tokenizer() = default;
  void read_model(const Json& model);
  void read_vocabulary(const Json& vocabulary);
  void read_merges(const Json& merges);
  void read_bytes(const Json& model);
  void read_added_tokens(const Json& list);
  void read_pre_tokenizer(const Json& step);
  void read_post_processor(const Json& step);
  void make_words();
  void put_token(int64_t id, const std::string& text, const Json& place);
  int32_t id_of_merge_part(const std::string& part, const Json& place) const;
  void encode_text(std::string_view text, std::vector<int32_t>& out) const;
  void encode_word(std::string_view word, std::vector<int32_t>& out) const;
  void merge_short(std::string_view word, std::vector<int32_t>& out) const;
  void merge_long(std::string_view word, std::vector<int32_t>& out) const;

  Json document_;
  std::string sha256_;
  std::vector<Token> tokens_;  // by id
  std::unordered_map<std::string, int32_t> ids_;
  MergeTable merges_;
  WordTable words_;                // words that become one token, whatever stands around them
  std::vector<int32_t> byte_ids_;  // 256, -1 where the vocabulary lacks the byte
  int32_t unknown_id_ = -1;
  bool ignore_merges_ = false;  // a word that is a token is taken whole
  bool nfc_ = false;
  // One step of pre-tokenisation: a pattern that is known by hand, or a regular expression.
  struct Split {
    std::optional<SplitPattern> known;
    std::optional<Regex> regex;
    bool keep_gaps = true;
  };
  std::vector<Split> splits_;
  bool byte_level_seen_ = false;
  bool add_prefix_space_ = false;
  bool split_after_prefix_ = false;  // ByteLevel's use_regex
  AddedTokenMatcher added_;
  AddedTokenMatcher added_normalized_;
  std::vector<int32_t> prefix_ids_;
};

// Text of a growing list of ids, given out as soon as it is complete: bytes that may still become a character are held
// back.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special) : tokenizer_(tokenizer), skip_special_(skip_special) {}
  std::string add(int32_t id);
  std::string finish();  // what is held back, as U+FFFD

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string held_;
};

}  // namespace matvlm
