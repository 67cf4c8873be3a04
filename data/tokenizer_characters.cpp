// Models of characters: SentencePiece's BPE as Hugging Face writes it. A character that the vocabulary lacks becomes
// its bytes (<0xE2>, ...) or the unknown token.
#include <cstdio>

#include "core/error.h"
#include "data/tokenizer.h"
#include "data/utf8.h"

namespace matvlm {

void Tokenizer::read_characters(const Json& model) {
  CharacterModel& c = *characters_;
  c.fuse_unknown = model.get("fuse_unk", false);
  const std::string unknown = model.get("unk_token", "");
  if (!unknown.empty()) unknown_id_ = id_of_merge_part(unknown, model.at("unk_token"));
  for (const auto& [text, id] : ids_) {
    if (text.empty()) continue;
    const CodePoint point = code_point_at(text, 0);
    if (point.length == static_cast<int64_t>(text.size()) && point.code != kInvalidCode) c.ids[point.code] = id;
  }
  if (!model.get("byte_fallback", false)) return;
  c.bytes.assign(256, -1);
  for (unsigned byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    const auto place = ids_.find(name);
    if (place == ids_.end()) continue;
    c.bytes[byte] = place->second;
    tokens_[static_cast<size_t>(place->second)].bytes = std::string(1, static_cast<char>(byte));
  }
}

// Ids of the characters; an unknown one waits for the next known one, as in Hugging Face tokenizers.
std::vector<Tokenizer::Symbol> Tokenizer::symbols_of(std::string_view text) const {
  const CharacterModel& c = *characters_;
  std::vector<Symbol> out;
  int64_t unknown = 0;
  const auto flush = [&] {
    for (; unknown > 0; --unknown) out.push_back({unknown_id_, 0, 0});
  };
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = code_point_at(text, static_cast<int64_t>(at));
    const std::string_view bytes = text.substr(at, static_cast<size_t>(point.length));
    at += bytes.size();
    const auto place = c.ids.find(point.code);
    if (place != c.ids.end()) {
      flush();
      out.push_back({place->second, 0, 0});
      continue;
    }
    bool all = !c.bytes.empty();
    for (const char byte : bytes) all = all && c.bytes[static_cast<uint8_t>(byte)] >= 0;
    if (all) {
      for (const char byte : bytes) out.push_back({c.bytes[static_cast<uint8_t>(byte)], 0, 0});
    } else if (unknown_id_ >= 0) {
      if (!c.fuse_unknown) flush();
      unknown = 1;
    }
  }
  flush();
  return out;
}

void Tokenizer::encode_characters(std::string_view text, bool at_start, std::vector<int32_t>& out) const {
  const auto encode_piece = [&](std::string_view piece) {
    if (const int32_t id = words_.find(piece); id >= 0) {
      out.push_back(id);
      return;
    }
    std::vector<Symbol> symbols = symbols_of(piece);
    merge_symbols(symbols, out);
  };
  if (!metaspace_) return encode_piece(text);
  const Metaspace& m = *metaspace_;
  std::string spaced = replace_all(text, " ", m.replacement);
  const bool wanted = m.prepend == Metaspace::Prepend::always || (m.prepend == Metaspace::Prepend::first && at_start);
  if (wanted && !spaced.starts_with(m.replacement)) spaced.insert(0, m.replacement);
  if (!m.split) return encode_piece(spaced);
  for (size_t begin = 0; begin < spaced.size();) {
    const size_t end = std::min(spaced.find(m.replacement, begin + 1), spaced.size());
    encode_piece(std::string_view(spaced).substr(begin, end - begin));
    begin = end;
  }
}

}  // namespace matvlm
