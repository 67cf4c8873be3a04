// The only file that includes pcre2.h.
#include <cstdint>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/error.h"
#include "data/regex.h"
#include "data/utf8.h"

namespace matvlm {
namespace {

std::string message_of(int number) {
  std::string text(256, '\0');
  const int size = pcre2_get_error_message(number, reinterpret_cast<PCRE2_UCHAR*>(text.data()), text.size());
  text.resize(size > 0 ? static_cast<size_t>(size) : 0);
  return text;
}

// PCRE2's own \s holds U+180E as well, which Unicode and Oniguruma (Hugging Face's library) count no space.
std::string with_unicode_spaces(const std::string& pattern) {
  std::string out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '\\' || i + 1 == pattern.size()) {
      out += pattern[i];
      continue;
    }
    const char next = pattern[++i];
    if (next == 's' || next == 'S') {
      out += next == 's' ? "\\p{White_Space}" : "\\P{White_Space}";
    } else {
      out += '\\';
      out += next;
    }
  }
  return out;
}

using MatchData = std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)>;

}  // namespace

struct Regex::Code {
  pcre2_code* code = nullptr;
  ~Code() { pcre2_code_free(code); }
};

Regex::Regex(const std::string& pattern, const std::string& where) : where_(where) {
  const std::string text = with_unicode_spaces(pattern);
  auto made = std::make_shared<Code>();
  int number = 0;
  PCRE2_SIZE place = 0;
  made->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                             PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF, &number, &place, nullptr);
  if (made->code == nullptr) {
    fail(where, ": found the pattern '", pattern, "', which is no regular expression: ", message_of(number));
  }
  pcre2_jit_compile(made->code, PCRE2_JIT_COMPLETE);  // where it cannot, pcre2_match interprets
  code_ = std::move(made);
}

void Regex::split(std::string_view text, bool keep_gaps, std::vector<std::string_view>& out) const {
  const MatchData match(pcre2_match_data_create(1, nullptr), &pcre2_match_data_free);
  check(match != nullptr, where_, ": no memory to match the pattern");
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t done = 0;  // everything before is in `out`
  for (size_t at = 0; at < text.size();) {
    const int found = pcre2_match(code_->code, subject, text.size(), at, 0, match.get(), nullptr);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) fail(where_, ": matching the pattern failed: ", message_of(found));
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(match.get());
    if (ends[1] <= ends[0]) {  // empty: looked for again behind the next character
      at = ends[0] < text.size()
               ? ends[0] + static_cast<size_t>(code_point_at(text, static_cast<int64_t>(ends[0])).length)
               : text.size();
      continue;
    }
    if (keep_gaps && ends[0] > done) out.push_back(text.substr(done, ends[0] - done));
    out.push_back(text.substr(ends[0], ends[1] - ends[0]));
    done = at = ends[1];
  }
  if (keep_gaps && done < text.size()) out.push_back(text.substr(done));
}

}  // namespace matvlm
