// Stands in for regex_pcre2.cpp where the build has no PCRE2.
#include "core/error.h"
#include "data/regex.h"

namespace matvlm {

struct Regex::Code {};

Regex::Regex(const std::string& pattern, const std::string& where) {
  fail(where, ": found the pattern '", pattern,
       "', expected that of GPT-2, Llama 3 or Qwen 2: this build has no PCRE2 (libpcre2-dev)");
}

void Regex::split(std::string_view, bool, std::vector<std::string_view>&) const {
  fail(where_, ": this build has no PCRE2");
}

}  // namespace matvlm
