// Regular expressions of pre-tokenizers that data/pretokenizer.h does not know by hand, by PCRE2 where the build has
// it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace matvlm {

class Regex {
 public:
  // `where` heads messages. Error when the build has no PCRE2, or for an expression that PCRE2 does not take. Classes
  // are Unicode's: \s is White_Space, \p{L} a letter of any script.
  Regex(const std::string& pattern, const std::string& where);

  // Appends the matches of `text` in order, empty ones left out; with `keep_gaps` also what lies between them. Text
  // need not be UTF-8: nothing matches a broken byte. Error when matching takes more than PCRE2's limits.
  void split(std::string_view text, bool keep_gaps, std::vector<std::string_view>& out) const;

 private:
  struct Code;
  std::shared_ptr<const Code> code_;
  std::string where_;
};

}  // namespace matvlm
