// What a tokenizer does to a text before it is split: normalization form C (Unicode Standard Annex 15, by the tables of
// data/unicode_normalization.h), replaced strings, something put in front.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace matvlm {

// Whether to_nfc(text) is certainly `text` itself: no code point that could decompose, compose or change places.
bool is_nfc_quick(std::string_view text);

// `text` in form C. Bytes that are not UTF-8 stay as they are; nothing composes over them.
std::string to_nfc(std::string_view text);

// Steps of a tokenizer.json's normalizer, in their order.
class TextNormalizer {
 public:
  void add_nfc() { steps_.push_back({Kind::nfc, "", ""}); }
  void add_prepend(std::string text) { steps_.push_back({Kind::prepend, std::move(text), ""}); }
  void add_replace(std::string from, std::string to) {  // `from` is not empty
    steps_.push_back({Kind::replace, std::move(from), std::move(to)});
  }
  // Whether apply(text) is certainly `text` itself.
  bool keeps(std::string_view text) const;
  std::string apply(std::string_view text) const;

 private:
  enum class Kind { nfc, prepend, replace };
  struct Step {
    Kind kind;
    std::string first, second;
  };
  std::vector<Step> steps_;
};

// Every `from` in `text` replaced by `to`.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

}  // namespace matvlm
