// YAML through yaml-cpp. Anchors are resolved by the parser; a document that contains itself ends at the depth limit.
#include "launch/yaml.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"

namespace matvlm {
namespace {

constexpr int kMaxDepth = 32;

YamlNode convert(const YAML::Node& node, const std::string& source, int depth) {
  YamlNode out;
  out.line = node.Mark().line + 1;
  check(depth <= kMaxDepth, source, ":", out.line, ": found nesting deeper than ", kMaxDepth, ", expected less");
  switch (node.Type()) {
    case YAML::NodeType::Scalar:
      out.kind = YamlNode::Kind::scalar;
      out.text = node.Scalar();
      out.quoted = node.Tag() == "!";  // how yaml-cpp marks quotes; plain scalars carry "?"
      break;
    case YAML::NodeType::Sequence:
      out.kind = YamlNode::Kind::list;
      for (const YAML::Node& item : node) out.items.push_back(convert(item, source, depth + 1));
      break;
    case YAML::NodeType::Map:
      out.kind = YamlNode::Kind::map;
      for (const auto& entry : node) {
        out.entries.push_back({convert(entry.first, source, depth + 1), convert(entry.second, source, depth + 1)});
      }
      break;
    case YAML::NodeType::Null:
    case YAML::NodeType::Undefined:
      break;
  }
  return out;
}

}  // namespace

std::string YamlNode::describe() const {
  switch (kind) {
    case Kind::null:
      return "nothing";
    case Kind::scalar:
      return cat("'", text, "'");
    case Kind::list:
      return "a list";
    case Kind::map:
      return "a section";
  }
  return "nothing";
}

YamlNode parse_yaml(std::string_view text, const std::string& source) {
  std::vector<YAML::Node> documents;
  try {
    documents = YAML::LoadAll(std::string(text));
  } catch (const YAML::Exception& error) {
    fail(source, ":", error.mark.line + 1, ": found invalid YAML (", error.msg, "), expected 'key: value' lines");
  }
  check(documents.size() <= 1, source, ": found ", documents.size(), " YAML documents, expected one");
  if (documents.empty()) return {};
  return convert(documents[0], source, 0);
}

std::string yaml_scalar(const std::string& text) {
  const auto safe = [](unsigned char ch) {
    return (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') || ch == '_' || ch == '/' ||
           ch == '.' || ch == '-';
  };
  // Plain only with a slash or letter at the front and nothing that YAML could take for a number, bool or null.
  static const std::vector<std::string> kWords = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"};
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char ch) { return static_cast<char>(std::tolower(ch)); });
  const bool word = std::find(kWords.begin(), kWords.end(), lower) != kWords.end();
  const bool starts_plain = !text.empty() && safe(static_cast<unsigned char>(text[0])) && text[0] != '-' &&
                            text[0] != '.' && !(text[0] >= '0' && text[0] <= '9');
  if (starts_plain && !word && std::all_of(text.begin(), text.end(), safe)) return text;
  return Json::of(std::string_view(text)).dump();  // JSON strings are YAML strings
}

}  // namespace matvlm
