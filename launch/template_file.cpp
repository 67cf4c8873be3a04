#include "launch/template_file.h"

#include "core/error.h"
#include "core/file.h"
#include "launch/yaml.h"

namespace matvlm {

ConversationTemplate load_template(const std::string& name) {
  if (!name.ends_with(".yaml") && !name.ends_with(".yml")) return find_template(name);
  const YamlNode root = parse_yaml(read_file(name), name);
  check(root.kind == YamlNode::Kind::map, name, ": found ", root.describe(), ", expected the keys of a template");
  Json json = Json::object();
  for (const YamlEntry& entry : root.entries) {
    const std::string where = cat(name, ":", entry.key.line, ": key '", entry.key.text, "'");
    check(!json.has(entry.key.text), where, ": found twice, expected once");
    check(entry.value.kind == YamlNode::Kind::scalar, where, ": found ", entry.value.describe(), ", expected a text");
    if (entry.key.text != "trim") {
      json.set(entry.key.text, entry.value.text);
      continue;
    }
    const bool yes = entry.value.text == "true";
    check(yes || entry.value.text == "false", where, ": found ", entry.value.describe(), ", expected true or false");
    json.set("trim", yes);
  }
  // Parsed again so that messages of the keys' own rules name the file.
  return template_from_json(Json::parse(json.dump(), name));
}

}  // namespace matvlm
