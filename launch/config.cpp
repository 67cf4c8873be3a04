// Reads, checks, writes and compares run configs by the table of config_keys.h.
#include "launch/config.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "launch/config_keys.h"
#include "launch/config_reader.h"

namespace matvlm {
namespace {

std::string joined(const std::vector<std::string>& parts, const std::string& separator) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : separator) + part;
  return text;
}

// The names of the sections around a key, and its own, which keeps the dot behind what is a key itself:
// `precision.frozen` stands beside `precision`.
std::vector<std::string> split_path(const std::string& path) {
  std::vector<std::string> parts(1);
  for (size_t i = 0; i < path.size(); ++i) {
    const bool in_name = std::any_of(config_keys().begin(), config_keys().end(),
                                     [&](const ConfigKey& key) { return key.path == path.substr(0, i); });
    if (path[i] == '.' && !in_name) {
      parts.emplace_back();
    } else {
      parts.back() += path[i];
    }
  }
  return parts;
}

// Emits nested YAML from keys in table order: a section's heading when it starts, then its keys indented.
class SectionWriter {
 public:
  // Heads of the sections that `path` lies in and that are not open yet; then returns the indented last name.
  std::string open(const std::string& path) {
    std::vector<std::string> parts = split_path(path);
    const std::string name = parts.back();
    parts.pop_back();
    std::string text;
    size_t common = 0;
    while (common < parts.size() && common < open_.size() && parts[common] == open_[common]) ++common;
    for (size_t i = common; i < parts.size(); ++i) text += std::string(2 * i, ' ') + parts[i] + ":\n";
    open_ = parts;
    return text + std::string(2 * parts.size(), ' ') + name;
  }
  std::string indent() const { return std::string(2 * open_.size(), ' '); }
  // Whether `path` starts a section that is not open.
  bool starts_section(const std::string& path) const {
    std::vector<std::string> parts = split_path(path);
    parts.pop_back();
    return parts != open_ && !parts.empty();
  }

 private:
  std::vector<std::string> open_;
};

}  // namespace

RunConfig parse_config(const std::string& text, const std::string& source, const std::vector<std::string>& sets) {
  ConfigReader reader(source);
  reader.read_document(parse_yaml(text, source));
  for (const std::string& set : sets) reader.read_set(set);
  return reader.finish();
}

RunConfig load_config(const std::string& path, const std::vector<std::string>& sets) {
  return parse_config(read_file(path), path, sets);
}

std::string config_yaml(const RunConfig& config) {
  SectionWriter writer;
  std::string text;
  for (const ConfigKey& key : config_keys()) {
    if (key.in(config.kind)) text += writer.open(key.path) + ": " + key.write(config) + "\n";
  }
  return text;
}

std::string config_table(const RunConfig& config) {
  size_t width = 0;
  for (const ConfigKey& key : config_keys()) {
    if (key.in(config.kind)) width = std::max(width, key.path.size());
  }
  std::string text;
  for (const ConfigKey& key : config_keys()) {
    if (!key.in(config.kind)) continue;
    text += key.path + std::string(width + 2 - key.path.size(), ' ') + key.write(config) + "\n";
  }
  return text;
}

std::string config_value(const RunConfig& config, const std::string& key) {
  for (const ConfigKey& known : config_keys()) {
    if (known.path == key) return known.write(config);
  }
  fail("[config] found key '", key, "', expected one of configs/reference.yaml");
}

std::vector<ConfigDifference> config_diff(const RunConfig& a, const RunConfig& b) {
  std::vector<ConfigDifference> differences;
  for (const ConfigKey& key : config_keys()) {
    const std::string first = key.in(a.kind) ? key.write(a) : "";
    const std::string second = key.in(b.kind) ? key.write(b) : "";
    if (first != second) differences.push_back({key.path, first, second});
  }
  return differences;
}

void check_resumable(const RunConfig& saved, const RunConfig& now, const std::string& where) {
  std::vector<std::string> lines;
  for (const ConfigDifference& difference : config_diff(saved, now)) {
    const auto key = std::find_if(config_keys().begin(), config_keys().end(),
                                  [&](const ConfigKey& k) { return k.path == difference.key; });
    if (key->resume_may_change) continue;
    lines.push_back(cat("key '", difference.key, "': found ", difference.second.empty() ? "none" : difference.second,
                        ", expected ", difference.first.empty() ? "none" : difference.first));
  }
  check(lines.empty(), where, ": cannot resume with another config: ", joined(lines, "; "));
}

std::string config_reference() {
  SectionWriter writer;
  std::string text =
      "# Every key of a run's config: what it means, what it expects, and its default (required keys show an "
      "example).\n"
      "# Made by `matvlm check --reference`; a test compares. `teacher`, `student` and `loss` belong to `matvlm "
      "distill`,\n"
      "# `teach` to `matvlm teach`; a config with a `teach` section is one of the latter.\n";
  const RunConfig defaults;
  for (const ConfigKey& key : config_keys()) {
    const bool new_section = writer.starts_section(key.path);
    std::string line = writer.open(key.path);
    const size_t last = line.rfind('\n');
    const std::string headings = last == std::string::npos ? "" : line.substr(0, last + 1);
    if (last != std::string::npos) line = line.substr(last + 1);
    text += (new_section ? "\n" : "") + headings;
    text += writer.indent() + "# " + key.doc + ". Expects " + key.expected + (key.required ? "; required" : "") + ".\n";
    text += line + ": " + (key.required ? key.example : key.write(defaults)) + "\n";
  }
  return text;
}

std::vector<int64_t> resolve_ssm_layers(const StudentSection& student, int64_t n_layers) {
  std::vector<int64_t> layers = student.ssm_layers;
  if (student.ssm_fraction > 0) {
    const auto count = std::max<int64_t>(1, std::llround(student.ssm_fraction * static_cast<double>(n_layers)));
    // 12.5 % is the one published spread that does not reach the last layers: stride 6 of 32, not 8.
    const double stride = student.ssm_fraction == 0.125 ? 3.0 * static_cast<double>(n_layers) / 16.0
                                                        : static_cast<double>(n_layers) / static_cast<double>(count);
    for (int64_t i = 0; i < count; ++i) {
      layers.push_back(static_cast<int64_t>(std::floor(static_cast<double>(i) * stride)));
    }
  }
  for (const int64_t layer : layers) {
    check(layer < n_layers, "key 'student.ssm_layers': found layer ", layer, ", expected layers below the model's ",
          n_layers);
  }
  return layers;
}

LossConfig training_loss(const RunConfig& config) {
  if (config.kind == RunKind::distill) return config.loss;
  LossConfig loss;
  loss.logit = LogitLossKind::none;
  loss.layer = LayerLossKind::none;
  loss.ce_weight = 1.0;
  return loss;
}

}  // namespace matvlm
