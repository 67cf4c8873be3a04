// Search of added tokens and their options lstrip, rstrip and single_word, in the way of Hugging Face tokenizers.
#include "data/added_tokens.h"

#include <algorithm>

#include "data/unicode_classes.h"
#include "data/utf8.h"

namespace matvlm {
namespace {

// Start of the last code point of text[0, end).
size_t previous_start(std::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && end - at < 4 && (static_cast<uint8_t>(text[at]) & 0xC0U) == 0x80U) --at;
  return at;
}

uint32_t code_at(std::string_view text, size_t at) { return code_point_at(text, static_cast<int64_t>(at)).code; }

bool touches_word(std::string_view text, size_t begin, size_t end) {
  return (begin > 0 && is_word(code_at(text, previous_start(text, begin)))) ||
         (end < text.size() && is_word(code_at(text, end)));
}

size_t skip_space_back(std::string_view text, size_t begin, size_t limit) {
  while (begin > limit) {
    const size_t before = previous_start(text, begin);
    if (before < limit || !is_space(code_at(text, before))) break;
    begin = before;
  }
  return begin;
}

size_t skip_space(std::string_view text, size_t end) {
  while (end < text.size()) {
    const CodePoint point = code_point_at(text, static_cast<int64_t>(end));
    if (!is_space(point.code)) break;
    end += static_cast<size_t>(point.length);
  }
  return end;
}

}  // namespace

void AddedTokenMatcher::add(const AddedToken& token) {
  if (token.content.empty()) return;
  uint32_t node = 0;
  for (const char ch : token.content) {
    const uint64_t key = static_cast<uint64_t>(node) * 256 + static_cast<uint8_t>(ch);
    const auto [place, is_new] = children_.try_emplace(key, static_cast<uint32_t>(token_of_node_.size()));
    if (is_new) {
      token_of_node_.push_back(-1);
      next_bytes_.emplace_back();
      next_bytes_[node].set(static_cast<uint8_t>(ch));
    }
    node = place->second;
  }
  starts_[static_cast<uint8_t>(token.content.front())] = true;
  token_of_node_[node] = static_cast<int64_t>(tokens_.size());
  tokens_.push_back(token);
}

const AddedToken* AddedTokenMatcher::longest_at(std::string_view text, size_t at) const {
  if (!starts_[static_cast<uint8_t>(text[at])]) return nullptr;
  const AddedToken* longest = nullptr;
  uint32_t node = 0;
  for (; at < text.size() && next_bytes_[node].test(static_cast<uint8_t>(text[at])); ++at) {
    const auto place = children_.find(static_cast<uint64_t>(node) * 256 + static_cast<uint8_t>(text[at]));
    node = place->second;
    if (token_of_node_[node] >= 0) longest = &tokens_[static_cast<size_t>(token_of_node_[node])];
  }
  return longest;
}

void AddedTokenMatcher::split(std::string_view text, std::vector<TextPiece>& out) const {
  size_t done = 0;  // everything before is in `out`
  for (size_t at = 0; at < text.size();) {
    const AddedToken* token = longest_at(text, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + token->content.size();
    at = end;
    if (begin < done || (token->single_word && touches_word(text, begin, end))) continue;
    if (token->lstrip) begin = skip_space_back(text, begin, done);
    if (token->rstrip) end = skip_space(text, end);
    if (done < begin) out.push_back({text.substr(done, begin - done), -1});
    out.push_back({text.substr(begin, end - begin), token->id});
    done = end;
  }
  if (done < text.size()) out.push_back({text.substr(done), -1});
}

}  // namespace matvlm
