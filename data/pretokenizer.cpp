// Hand-written matchers for the known split patterns. Each function returns the end of the match at a position, or the
// position itself when its alternative does not match; alternatives are tried in the order of the regular expression.
#include "data/pretokenizer.h"

#include <array>
#include <cstdint>
#include <utility>

#include "data/unicode_classes.h"
#include "data/utf8.h"

namespace matvlm {
namespace {

constexpr std::string_view kLlama3Head = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)";
constexpr std::string_view kLlama3Tail = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt2Tail = R"(| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

bool is_newline(uint32_t code) { return code == '\r' || code == '\n'; }
bool is_other(uint32_t code) { return !is_space(code) && !is_letter(code) && !is_number(code); }

class Scanner {
 public:
  Scanner(std::string_view text, SplitPattern pattern) : text_(text), pattern_(pattern) {}

  void run(std::vector<std::string_view>& out) const {
    for (int64_t at = 0; at < size();) {
      const int64_t end = match(at);
      out.push_back(text_.substr(static_cast<size_t>(at), static_cast<size_t>(end - at)));
      at = end;
    }
  }

 private:
  int64_t match(int64_t at) const {
    if (pattern_ == SplitPattern::gpt2) return match_gpt2(at);
    if (pattern_ == SplitPattern::llama3 || pattern_ == SplitPattern::qwen2) return match_llama3(at);
    const int64_t most = pattern_ == SplitPattern::each_number ? 1 : INT64_MAX;
    if (const int64_t end = run_of(is_number, at, most); end > at) return end;
    return run_of([](uint32_t code) { return !is_number(code); }, at);
  }

  int64_t size() const { return static_cast<int64_t>(text_.size()); }
  CodePoint point(int64_t at) const {
    const auto byte = static_cast<uint8_t>(text_[static_cast<size_t>(at)]);
    return byte < 0x80 ? CodePoint{byte, 1} : code_point_at(text_, at);
  }

  template <class Class>
  int64_t run_of(Class in_class, int64_t at, int64_t most = INT64_MAX) const {
    while (at < size() && most-- > 0) {
      const CodePoint p = point(at);
      if (!in_class(p.code)) break;
      at += p.length;
    }
    return at;
  }

  template <class Class>
  int64_t run_after_space(Class in_class, int64_t at) const {
    const int64_t start = text_[static_cast<size_t>(at)] == ' ' ? at + 1 : at;
    const int64_t end = run_of(in_class, start);
    return end > start ? end : at;
  }

  int64_t contraction(int64_t at, bool any_case) const {
    static constexpr std::array<std::string_view, 7> kEndings = {"s", "t", "re", "ve", "m", "ll", "d"};
    if (text_[static_cast<size_t>(at)] != '\'') return at;
    for (const std::string_view ending : kEndings) {
      int64_t end = at + 1;
      size_t matched = 0;
      while (matched < ending.size() && end < size()) {
        const CodePoint p = point(end);
        uint32_t code = p.code;
        if (any_case && code >= 'A' && code <= 'Z') code |= 0x20U;
        if (any_case && code == 0x17F) code = 's';  // LATIN SMALL LETTER LONG S folds to s
        if (code != static_cast<uint8_t>(ending[matched])) break;
        end += p.length;
        ++matched;
      }
      if (matched == ending.size()) return end;
    }
    return at;
  }

  // \s+(?!\S)|\s+ : a run of white space that ends the text, else the run without its last character, else that one.
  int64_t white_space(int64_t at) const {
    int64_t end = at;
    int64_t last = at;
    while (end < size()) {
      const CodePoint p = point(end);
      if (!is_space(p.code)) break;
      last = end;
      end += p.length;
    }
    return end == size() || last == at ? end : last;
  }

  int64_t match_gpt2(int64_t at) const {
    if (const int64_t end = contraction(at, false); end > at) return end;
    if (const int64_t end = run_after_space(is_letter, at); end > at) return end;
    if (const int64_t end = run_after_space(is_number, at); end > at) return end;
    if (const int64_t end = run_after_space(is_other, at); end > at) return end;
    return white_space(at);
  }

  // [^\r\n\p{L}\p{N}]?\p{L}+
  int64_t letters_after_any(int64_t at) const {
    const CodePoint p = point(at);
    const bool lead = !is_newline(p.code) && !is_letter(p.code) && !is_number(p.code);
    const int64_t start = lead ? at + p.length : at;
    const int64_t end = run_of(is_letter, start);
    return end > start ? end : at;
  }

  // \s*[\r\n]+ : up to the last newline of the run of white space.
  int64_t through_newline(int64_t at) const {
    int64_t end = at;
    for (int64_t i = at; i < size();) {
      const CodePoint p = point(i);
      if (!is_space(p.code)) break;
      i += p.length;
      if (is_newline(p.code)) end = i;
    }
    return end;
  }

  int64_t match_llama3(int64_t at) const {
    if (const int64_t end = contraction(at, true); end > at) return end;
    if (const int64_t end = letters_after_any(at); end > at) return end;
    const int64_t digits = pattern_ == SplitPattern::qwen2 ? 1 : 3;
    if (const int64_t end = run_of(is_number, at, digits); end > at) return end;
    if (const int64_t end = run_after_space(is_other, at); end > at) return run_of(is_newline, end);
    if (const int64_t end = through_newline(at); end > at) return end;
    return white_space(at);
  }

  std::string_view text_;
  SplitPattern pattern_;
};

bool is_concatenation(std::string_view text, std::initializer_list<std::string_view> parts) {
  for (const std::string_view part : parts) {
    if (!text.starts_with(part)) return false;
    text.remove_prefix(part.size());
  }
  return text.empty();
}

}  // namespace

std::optional<SplitPattern> known_split_pattern(std::string_view regex) {
  if (is_concatenation(regex, {"'s|'t|'re|'ve|'m|'ll|'d", kGpt2Tail})) return SplitPattern::gpt2;
  if (is_concatenation(regex, {"'(?:[sdmt]|ll|ve|re)", kGpt2Tail})) return SplitPattern::gpt2;
  if (is_concatenation(regex, {kLlama3Head, R"(\p{N}{1,3})", kLlama3Tail})) return SplitPattern::llama3;
  if (is_concatenation(regex, {kLlama3Head, R"(\p{N})", kLlama3Tail})) return SplitPattern::qwen2;
  return std::nullopt;
}

void split_text(std::string_view text, SplitPattern pattern, std::vector<std::string_view>& out) {
  Scanner(text, pattern).run(out);
}

}  // namespace matvlm
