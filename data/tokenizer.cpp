// Encoding and decoding. Reading of tokenizer.json is in tokenizer_json.cpp.
#include "data/tokenizer.h"

#include <algorithm>
#include <array>
#include <queue>
#include <tuple>

#include "core/error.h"
#include "core/file.h"
#include "data/byte_alphabet.h"
#include "data/normalize.h"
#include "data/utf8.h"

namespace matvlm {

namespace {

constexpr size_t kShortWord = 32;  // bytes; longer ones are merged by a heap

}  // namespace

void Tokenizer::encode_word(std::string_view word, std::vector<int32_t>& out) const {
  if (const int32_t id = words_.find(word); id >= 0) {
    out.push_back(id);
  } else if (word.size() <= kShortWord) {
    merge_short(word, out);
  } else {
    merge_long(word, out);
  }
}

// Merges the pair of lowest rank, leftmost first, until none is left: by looking at every pair, which is the quickest
// way for a few bytes.
void Tokenizer::merge_short(std::string_view word, std::vector<int32_t>& out) const {
  std::array<int32_t, kShortWord> ids{};
  std::array<BpeMerge, kShortWord> merges{};  // of ids i and i + 1
  constexpr BpeMerge kNone{INT32_MAX, -1};
  size_t n = 0;
  const auto look_up = [&](size_t i) {
    const BpeMerge* merge = merges_.find(ids[i], ids[i + 1]);
    merges[i] = merge == nullptr ? kNone : *merge;
  };
  for (const char byte : word) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(byte)];
    if (id >= 0) ids[n++] = id;
  }
  for (size_t i = 0; i + 1 < n; ++i) look_up(i);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].id < 0) break;
    ids[best] = merges[best].id;
    --n;
    for (size_t i = best + 1; i < n; ++i) {
      ids[i] = ids[i + 1];
      merges[i - 1] = merges[i];
    }
    if (best + 1 < n) look_up(best);
    if (best > 0) look_up(best - 1);
  }
  out.insert(out.end(), ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(n));
}

void Tokenizer::merge_long(std::string_view word, std::vector<int32_t>& out) const {
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  for (const char byte : word) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(byte)];
    if (id >= 0) symbols.push_back({id, 0, 0});
  }
  merge_symbols(symbols, out);
}

// The same for words of any length: candidates wait in a heap; one whose symbols have changed meanwhile is recognised
// by its ids and dropped. Only the ids of `symbols` are read.
void Tokenizer::merge_symbols(std::vector<Symbol>& symbols, std::vector<int32_t>& out) const {
  if (symbols.empty()) return;
  for (size_t i = 0; i < symbols.size(); ++i) {
    symbols[i].previous = static_cast<int64_t>(i) - 1;
    symbols[i].next = static_cast<int64_t>(i) + 1;
  }
  symbols.back().next = -1;
  using Candidate = std::tuple<int32_t, int64_t, int32_t, int32_t, int32_t>;  // rank, position, left, right, merged
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto propose = [&](int64_t left) {
    if (left < 0 || symbols[static_cast<size_t>(left)].next < 0) return;
    const Symbol& a = symbols[static_cast<size_t>(left)];
    const Symbol& b = symbols[static_cast<size_t>(a.next)];
    if (const BpeMerge* merge = merges_.find(a.id, b.id)) queue.emplace(merge->rank, left, a.id, b.id, merge->id);
  };
  for (int64_t i = 0; i + 1 < static_cast<int64_t>(symbols.size()); ++i) propose(i);
  while (!queue.empty()) {
    const auto [rank, left, left_id, right_id, merged] = queue.top();
    queue.pop();
    Symbol& a = symbols[static_cast<size_t>(left)];
    if (a.id != left_id || a.next < 0 || symbols[static_cast<size_t>(a.next)].id != right_id) continue;
    Symbol& b = symbols[static_cast<size_t>(a.next)];
    a.id = merged;
    a.next = b.next;
    b.id = -1;  // gone
    if (a.next >= 0) symbols[static_cast<size_t>(a.next)].previous = left;
    propose(a.previous);
    propose(left);
  }
  for (int64_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next) {
    out.push_back(symbols[static_cast<size_t>(i)].id);
  }
}

// Words that are a token and that merging makes that token again; with ignore_merges every word that is a token.
void Tokenizer::make_words() {
  std::vector<int32_t> ids;
  for (size_t id = 0; id < tokens_.size(); ++id) {
    if (characters_) {
      if (!tokens_[id].used || tokens_[id].text.empty()) continue;
      std::vector<Symbol> symbols = symbols_of(tokens_[id].text);
      ids.clear();
      if (!ignore_merges_) merge_symbols(symbols, ids);
      const bool whole = ids.size() == 1 && ids.front() == static_cast<int32_t>(id);
      if (whole || ignore_merges_) words_.insert(tokens_[id].text, static_cast<int32_t>(id));
      continue;
    }
    const std::optional<std::string> bytes = from_byte_characters(tokens_[id].text);
    if (!tokens_[id].used || !bytes || bytes->empty()) continue;
    const auto known = [this](char byte) { return byte_ids_[static_cast<uint8_t>(byte)] >= 0; };
    if (!ignore_merges_) {
      if (!std::all_of(bytes->begin(), bytes->end(), known)) continue;
      ids.clear();
      bytes->size() <= kShortWord ? merge_short(*bytes, ids) : merge_long(*bytes, ids);
      if (ids.size() != 1 || ids.front() != static_cast<int32_t>(id)) continue;
    }
    words_.insert(*bytes, static_cast<int32_t>(id));
  }
}

void Tokenizer::encode_text(std::string_view text, std::vector<int32_t>& out) const {
  std::vector<std::string_view> pieces = {text};
  std::vector<std::string_view> next;
  const auto split_all = [&](SplitPattern pattern) {
    next.clear();
    for (const std::string_view piece : pieces) split_text(piece, pattern, next);
    pieces.swap(next);
  };
  for (const Split& split : splits_) {
    if (split.known) {
      split_all(*split.known);
      continue;
    }
    next.clear();
    for (const std::string_view piece : pieces) split.regex->split(piece, split.keep_gaps, next);
    pieces.swap(next);
  }
  if (!add_prefix_space_) {
    if (split_after_prefix_) split_all(SplitPattern::gpt2);
    for (const std::string_view piece : pieces) encode_word(piece, out);
    return;
  }
  for (const std::string_view piece : pieces) {
    std::string prefixed(piece.front() == ' ' ? 0 : 1, ' ');
    prefixed.append(piece);
    next.clear();
    if (split_after_prefix_) {
      split_text(prefixed, SplitPattern::gpt2, next);
    } else {
      next.push_back(prefixed);
    }
    for (const std::string_view word : next) encode_word(word, out);
  }
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> out;
  std::vector<TextPiece> outer;
  std::vector<TextPiece> inner;
  added_.split(text, outer);
  for (const TextPiece& piece : outer) {
    if (piece.id >= 0) {
      out.push_back(piece.id);
      continue;
    }
    inner.clear();
    std::string normalized;
    std::string_view content = piece.text;
    if (!normalizer_.keeps(content)) content = normalized = normalizer_.apply(content);
    added_normalized_.split(content, inner);
    for (const TextPiece& part : inner) {
      if (part.id >= 0) {
        out.push_back(part.id);
      } else if (characters_) {
        const bool at_start = piece.text.data() == text.data() && part.text.data() == content.data();
        encode_characters(part.text, at_start, out);
      } else {
        encode_text(part.text, out);
      }
    }
  }
  return out;
}

std::string Tokenizer::token_bytes(int32_t id) const {
  return id < 0 || id >= vocab_size() ? std::string() : tokens_[static_cast<size_t>(id)].bytes;
}

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && id < vocab_size() && tokens_[static_cast<size_t>(id)].special;
}

std::optional<int32_t> Tokenizer::token_to_id(std::string_view token) const {
  const auto place = ids_.find(std::string(token));
  return place == ids_.end() ? std::nullopt : std::optional<int32_t>(place->second);
}

std::string Tokenizer::first_token_bytes(int32_t id) const {
  std::string bytes = token_bytes(id);
  if (first_without_spaces_) std::erase(bytes, ' ');
  return bytes;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  StreamDecoder stream(*this, skip_special);
  std::string text;
  for (const int32_t id : ids) text += stream.add(id);
  return text + stream.finish();
}

void Tokenizer::save(const std::string& path) const { write_file_atomic(path, document_.dump(1) + "\n"); }

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special), to_strip_(tokenizer.strip_start()) {}

std::string StreamDecoder::add(int32_t id) {
  if (skip_special_ && tokenizer_.is_special(id)) return {};
  held_ += started_ ? tokenizer_.token_bytes(id) : tokenizer_.first_token_bytes(id);
  started_ = true;
  while (to_strip_ > 0 && !held_.empty()) {
    to_strip_ = held_.front() == ' ' ? to_strip_ - 1 : 0;
    if (held_.front() == ' ') held_.erase(0, 1);
  }
  const auto complete = held_.size() - static_cast<size_t>(incomplete_utf8_tail(held_));
  std::string out = repair_utf8(std::string_view(held_).substr(0, complete));
  held_.erase(0, complete);
  return out;
}

std::string StreamDecoder::finish() {
  std::string out = repair_utf8(held_);
  held_.clear();
  return out;
}

}  // namespace matvlm
