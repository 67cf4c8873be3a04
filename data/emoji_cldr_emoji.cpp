// CLDR's annotation files by pugixml.
#include <algorithm>
#include <pugixml.hpp>

#include "core/error.h"
#include "data/emoji_keywords.h"
#include "data/utf8.h"

namespace matvlm {
namespace {

constexpr std::string_view kInherited = "↑↑↑";  // CLDR: the value of the parent language

std::vector<std::string> split_keywords(std::string_view text) {
  std::vector<std::string> out;
  while (true) {
    const size_t end = text.find('|');
    const std::string_view keyword = strip(text.substr(0, end));
    if (!keyword.empty() && keyword != kInherited) out.emplace_back(keyword);
    if (end == std::string_view::npos) return out;
    text.remove_prefix(end + 1);
  }
}

void read_annotations(const std::string& path, CldrAnnotations& out) {
  require_emoji_file(path, "unicode-cldr-core");
  pugi::xml_document document;
  const pugi::xml_parse_result result = document.load_file(path.c_str());
  check(static_cast<bool>(result), path, ": byte ", result.offset, ": ", result.description());
  const pugi::xml_node annotations = document.child("ldml").child("annotations");
  check(!annotations.empty(), path, ": no <ldml><annotations>; expected a CLDR annotation file");
  for (const pugi::xml_node& node : annotations.children("annotation")) {
    const std::u32string key = without_variation_selectors(emoji_from_utf8(node.attribute("cp").value()));
    const std::string_view text = strip(node.text().get());
    if (std::string_view(node.attribute("type").value()) == "tts") {
      if (text != kInherited) out.names.emplace(key, text);
    } else {
      out.keywords.emplace(key, split_keywords(text));
    }
  }
}

}  // namespace

CldrAnnotations read_cldr_annotations(const std::string& folder, const std::string& language) {
  const bool plain = !language.empty() && std::all_of(language.begin(), language.end(),
                                                      [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; });
  check(plain, "language '", language, "'; expected a CLDR locale such as en, de or pt_PT");
  CldrAnnotations out;
  read_annotations(folder + "/annotations/" + language + ".xml", out);
  read_annotations(folder + "/annotationsDerived/" + language + ".xml", out);
  check(!out.names.empty(), folder, ": no names in the annotations of language '", language, "'");
  return out;
}

}  // namespace matvlm
