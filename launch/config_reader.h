// Applies YAML documents and `--set` overrides to a RunConfig and remembers where each key came from, so that every
// message can say it. Internal to launch/config.cpp and its tests.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "launch/config.h"
#include "launch/yaml.h"

namespace matvlm {

class ConfigReader {
 public:
  explicit ConfigReader(std::string source) : source_(std::move(source)) {}

  void read_document(const YamlNode& root);
  void read_set(const std::string& assignment);  // "a.b=value"
  // Checks what concerns several keys and returns the config.
  RunConfig finish();

 private:
  // Reads the entries of a section. `where` is "file:line" of its heading.
  void read_section(const YamlNode& section, const std::string& prefix, const std::string& where);
  void read_key(const std::string& path, const YamlNode& value, const std::string& where);
  [[noreturn]] void fail_unknown(const std::string& path, const std::string& where) const;
  // "file:line: key 'a.b'": the place that set the key, or the file alone for a default.
  std::string at(const std::string& path) const;
  bool given(const std::string& path) const { return places_.contains(path); }

  void decide_kind();
  void check_required() const;
  void check_student() const;
  void check_loss() const;
  void check_sizes() const;
  void check_recompute() const;
  void check_teach() const;

  std::string source_;
  RunConfig config_;
  std::map<std::string, std::string> places_;  // key -> "file:line" or "--set a.b=c"
};

}  // namespace matvlm
