// BPE tokenizer of a Hugging Face `tokenizer.json`: added tokens, normalizer, pre-tokenisation, merges by rank, and
// back. Byte-level (ByteLevel, with Digits or Split before it: GPT-2, Phi, Llama 3, SmolLM2, Qwen2) or of characters
// with bytes for those that the vocabulary lacks (Llama 2 and others that come from SentencePiece). Every object is
// complete after construction and const, so threads may share it.
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
#include "data/normalize.h"
#include "data/pretokenizer.h"
#include "data/regex.h"

namespace matvlm {

// Models of characters, not bytes.
struct CharacterModel {
  std::unordered_map<uint32_t, int32_t> ids;  // by code point
  std::vector<int32_t> bytes;                 // of <0x00> to <0xFF>, -1 where missing; empty: no byte_fallback
  bool fuse_unknown = false;                  // unknown characters that follow each other are one token
};

// Spaces as a visible character (the Metaspace step of such models).
struct Metaspace {
  enum class Prepend { always, first, never };
  std::string replacement;
  Prepend prepend = Prepend::always;
  bool split = true;  // into words that begin with it
};

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
  // How a decoded text begins: bytes of its first token, and spaces that are taken from the text's beginning (models
  // that put a space in front of every text).
  std::string first_token_bytes(int32_t id) const;
  int64_t strip_start() const { return strip_start_; }

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
  struct Symbol {  // of a word while it is merged
    int32_t id;
    int64_t previous;
    int64_t next;  // -1 at the end
  };

  Tokenizer() = default;
  void read_model(const Json& model);
  void read_vocabulary(const Json& vocabulary);
  void read_merges(const Json& merges);
  void read_bytes(const Json& model);
  void read_added_tokens(const Json& list);
  void read_pre_tokenizer(const Json& step);
  void read_metaspace(const Json& step);
  void read_post_processor(const Json& step);
  void read_normalizer(const Json& step);
  void read_decoder(const Json& step);
  void read_characters(const Json& model);
  void make_words();
  void put_token(int64_t id, const std::string& text, const Json& place);
  int32_t id_of_merge_part(const std::string& part, const Json& place) const;
  void encode_text(std::string_view text, std::vector<int32_t>& out) const;
  void encode_characters(std::string_view text, bool at_start, std::vector<int32_t>& out) const;
  std::vector<Symbol> symbols_of(std::string_view text) const;
  void merge_symbols(std::vector<Symbol>& symbols, std::vector<int32_t>& out) const;
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
  TextNormalizer normalizer_;
  // One step of pre-tokenisation: a pattern that is known by hand, or a regular expression.
  struct Split {
    std::optional<SplitPattern> known;
    std::optional<Regex> regex;
    bool keep_gaps = true;
  };
  std::vector<Split> splits_;
  std::optional<CharacterModel> characters_;  // not byte-level
  std::optional<Metaspace> metaspace_;
  int64_t strip_start_ = 0;            // spaces that decoding takes from the beginning of a text
  bool first_without_spaces_ = false;  // decoding takes every space of the first token
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
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special);
  std::string add(int32_t id);
  std::string finish();  // what is held back, as U+FFFD

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  bool started_ = false;
  int64_t to_strip_ = 0;  // spaces that may still be taken from the beginning
  std::string held_;
};

}  // namespace matvlm
