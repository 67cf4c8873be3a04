// A YAML document as plain data with line numbers. Only yaml.cpp knows the parser behind it (yaml-cpp).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace matvlm {

struct YamlEntry;

struct YamlNode {
  enum class Kind { null, scalar, list, map };
  Kind kind = Kind::null;
  std::string text;     // of a scalar
  bool quoted = false;  // a scalar in quotes is a text, whatever it looks like
  int64_t line = 0;     // from 1
  std::vector<YamlNode> items;
  std::vector<YamlEntry> entries;  // of a map; in file order, duplicates kept

  // For messages: "nothing", "'abc'", "a list", "a section".
  std::string describe() const;
};

struct YamlEntry {
  YamlNode key;
  YamlNode value;
};

// Error "source:line: ..." for text that is no YAML, for several documents and for nesting deeper than 32.
YamlNode parse_yaml(std::string_view text, const std::string& source);

// `text` as a YAML scalar that reads back as this text: plain where that is safe, else in double quotes.
std::string yaml_scalar(const std::string& text);

}  // namespace matvlm
