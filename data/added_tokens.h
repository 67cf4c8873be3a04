// The added tokens of a tokenizer: strings that are found in the text before it is split into words and that become one
// id each, e.g. <|endoftext|>. Leftmost match first, the longest of those that start there.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace matvlm {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool special = false;      // left out by decode(ids, skip_special)
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = false;   // looked for after the others
  bool single_word = false;  // only where no word character touches it
};

// Either text (id < 0) or an added token.
struct TextPiece {
  std::string_view text;
  int32_t id = -1;
};

// A set of strings that is searched in one pass (a trie over bytes).
class AddedTokenMatcher {
 public:
  void add(const AddedToken& token);
  // Appends the pieces of `text`, empty ones left out.
  void split(std::string_view text, std::vector<TextPiece>& out) const;

 private:
  // The longest token that starts at `at`, or nullptr.
  const AddedToken* longest_at(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;
  std::array<bool, 256> starts_{};
  std::vector<std::bitset<256>> next_bytes_ = {{}};  // of each node: bytes that lead on
  std::unordered_map<uint64_t, uint32_t> children_;  // node * 256 + byte -> node; the root is node 0
  std::vector<int64_t> token_of_node_ = {-1};        // index into tokens_, or -1
};

}  // namespace matvlm
