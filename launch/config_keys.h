// The declaration of the config's keys: one entry per key that binds its name to a member of RunConfig.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "launch/config.h"
#include "launch/yaml.h"

namespace matvlm {

struct ConfigKey {
  std::string path;        // "optimizer.lr"
  std::string doc;         // one line, what it means and its unit
  std::string expected;    // "a number above 0", for messages and the reference
  bool in_distill = true;  // kinds of runs that have the key
  bool in_teach = true;
  bool required = false;
  bool resume_may_change = false;
  std::string example;  // of required keys, for the reference
  // False when the node is not what `expected` says; the config is then unchanged.
  std::function<bool(const YamlNode&, RunConfig&)> read;
  std::function<std::string(const RunConfig&)> write;  // as YAML

  bool in(RunKind kind) const { return kind == RunKind::distill ? in_distill : in_teach; }
};

const std::vector<ConfigKey>& config_keys();

}  // namespace matvlm
