// Strict reading of configs: see config_reader.h. Every failure is one line with place, key, found and expected.
#include "launch/config_reader.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "launch/config_keys.h"

namespace matvlm {
namespace {

// Edit distance (insert, delete, replace each cost 1).
int64_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<int64_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    int64_t diagonal = row[0];
    row[0] = static_cast<int64_t>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int64_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

std::string last_name(const std::string& path) { return path.substr(path.rfind('.') + 1); }

const ConfigKey* find_key(const std::string& path) {
  for (const ConfigKey& key : config_keys()) {
    if (key.path == path) return &key;
  }
  return nullptr;
}

// `precision` is a key and no section, though there is a `precision.frozen`.
bool is_section(const std::string& path) {
  const std::string prefix = path + ".";
  return find_key(path) == nullptr && std::any_of(config_keys().begin(), config_keys().end(),
                                                  [&](const ConfigKey& key) { return key.path.starts_with(prefix); });
}

// The known key or section that a mistyped one most likely meant: by spelling, or the same name in another section.
std::string nearest_key(const std::string& path) {
  std::string best;
  int64_t best_cost = std::numeric_limits<int64_t>::max();
  const auto consider = [&](const std::string& candidate) {
    int64_t cost = 2 * edit_distance(path, candidate);
    if (last_name(path) == last_name(candidate)) cost = std::min<int64_t>(cost, 5);
    if (cost >= best_cost) return;
    best_cost = cost;
    best = candidate;
  };
  for (const ConfigKey& key : config_keys()) {
    consider(key.path);
    for (size_t dot = key.path.find('.'); dot != std::string::npos; dot = key.path.find('.', dot + 1)) {
      consider(key.path.substr(0, dot));
    }
  }
  return best;
}

}  // namespace

std::string ConfigReader::at(const std::string& path) const {
  const auto place = places_.find(path);
  return cat(place == places_.end() ? source_ : place->second, ": key '", path, "'");
}

void ConfigReader::fail_unknown(const std::string& path, const std::string& where) const {
  fail(where, ": key '", path, "': found an unknown key, expected a known one; the nearest is '", nearest_key(path),
       "'");
}

void ConfigReader::read_document(const YamlNode& root) {
  check(root.kind == YamlNode::Kind::map, source_, ":", std::max<int64_t>(root.line, 1), ": found ", root.describe(),
        ", expected sections of 'key: value' lines");
  read_section(root, "", source_);
}

void ConfigReader::read_section(const YamlNode& section, const std::string& prefix, const std::string& where) {
  if (section.kind == YamlNode::Kind::null) return;  // a heading whose keys are all commented out
  check(section.kind == YamlNode::Kind::map, where, ": key '", prefix, "': found ", section.describe(),
        ", expected a section of keys");
  std::map<std::string, int64_t> lines;
  for (const auto& [name, value] : section.entries) {
    const std::string place = cat(source_, ":", name.line);
    check(name.kind == YamlNode::Kind::scalar, place, ": found ", name.describe(), " as a key, expected a name");
    const std::string path = prefix.empty() ? name.text : prefix + "." + name.text;
    const auto [first, fresh] = lines.emplace(name.text, name.line);
    check(fresh, place, ": key '", path, "': found a second time (first on line ", first->second, "), expected once");
    if (is_section(path)) {
      read_section(value, path, place);
      if (path == "teach") places_.emplace(path, place);
    } else {
      read_key(path, value, place);
    }
  }
}

void ConfigReader::read_key(const std::string& path, const YamlNode& value, const std::string& where) {
  const ConfigKey* key = find_key(path);
  if (key == nullptr) fail_unknown(path, where);
  if (!key->read(value, config_)) {
    fail(where, ": key '", path, "': found ", value.describe(), ", expected ", key->expected);
  }
  places_[path] = where;
}

void ConfigReader::read_set(const std::string& assignment) {
  const std::string where = "--set " + assignment;
  const size_t equals = assignment.find('=');
  check(equals != std::string::npos && equals > 0, where, ": found ", equals == 0 ? "no key" : "no '='",
        ", expected KEY=VALUE such as optimizer.lr=1e-4");
  const std::string path = assignment.substr(0, equals);
  check(!is_section(path), where, ": key '", path, "': found a section, expected one of its keys");
  if (find_key(path) == nullptr) fail_unknown(path, where);
  const std::string text = assignment.substr(equals + 1);
  YamlNode value;
  if (text.empty()) {  // the empty text, which YAML would take for nothing
    value.kind = YamlNode::Kind::scalar;
    value.quoted = true;
  } else {
    value = parse_yaml(text, where);
  }
  read_key(path, value, where);
}

RunConfig ConfigReader::finish() {
  decide_kind();
  check_required();
  check_sizes();
  check_recompute();
  if (config_.kind == RunKind::distill) {
    check_student();
    check_loss();
  } else {
    check_teach();
  }
  return config_;
}

void ConfigReader::decide_kind() {
  const bool teach = std::any_of(places_.begin(), places_.end(), [](const auto& entry) {
    return entry.first == "teach" || entry.first.starts_with("teach.");
  });
  config_.kind = teach ? RunKind::teach : RunKind::distill;
  for (const ConfigKey& key : config_keys()) {
    check(!given(key.path) || key.in(config_.kind), at(key.path),
          ": found a key of `matvlm distill`, expected only keys of `matvlm teach` beside a `teach` section");
  }
}

void ConfigReader::check_required() const {
  for (const ConfigKey& key : config_keys()) {
    if (!key.required || !key.in(config_.kind)) continue;
    check(given(key.path), at(key.path), ": found nothing, expected ", key.expected, " (", key.doc, ")");
    check(key.write(config_) != "\"\"", at(key.path), ": found an empty text, expected ", key.expected, " (", key.doc,
          ")");
  }
}

void ConfigReader::check_student() const {
  const StudentSection& student = config_.student;
  check(given("student.ssm_layers") || given("student.ssm_fraction"), at("student.ssm_layers"),
        ": found nothing, expected a list of layers, or student.ssm_fraction");
  const double f = student.ssm_fraction;
  check(f == 0 || f == 0.125 || f == 0.25 || f == 0.5, at("student.ssm_fraction"), ": found ", f,
        ", expected 0.125, 0.25 or 0.5 (or 0 with student.ssm_layers)");
  check(f == 0 || student.ssm_layers.empty(), at("student.ssm_fraction"), ": found ", f,
        " beside student.ssm_layers, expected one of the two");
  check(student.previous.empty() || student.init_from.empty(), at("student.previous"), ": found ", student.previous,
        " beside student.init_from, expected one of the two");
  for (size_t i = 1; i < student.ssm_layers.size(); ++i) {
    check(student.ssm_layers[i - 1] < student.ssm_layers[i], at("student.ssm_layers"), ": found ",
          student.ssm_layers[i], " after ", student.ssm_layers[i - 1], ", expected rising numbers");
  }
}

void ConfigReader::check_loss() const {
  const LossConfig& loss = config_.loss;
  const bool any = (loss.logit != LogitLossKind::none && loss.logit_weight > 0) ||
                   (loss.layer != LayerLossKind::none && loss.layer_weight > 0) || loss.ce_weight > 0;
  check(any, at("loss.ce_weight"), ": found every loss off or of weight 0, expected at least one above 0");
}

void ConfigReader::check_sizes() const {
  const ScheduleConfig& schedule = config_.schedule;
  check(config_.batch.micro <= config_.batch.size, at("batch.micro"), ": found ", config_.batch.micro,
        ", expected at most batch.size = ", config_.batch.size);
  const int64_t decay = schedule.kind == ScheduleKind::wsd ? schedule.decay : 0;
  const int64_t warmup = schedule.kind == ScheduleKind::constant ? 0 : schedule.warmup;
  check(warmup <= schedule.total && decay <= schedule.total - warmup, at("schedule.total"), ": found ", schedule.total,
        ", expected at least warmup", decay > 0 ? cat(" + decay = ", warmup, " + ", decay) : cat(" = ", warmup));
  check(config_.train.eval_every == 0 || !config_.data.heldout.empty(), at("data.heldout"),
        ": found nothing, expected a pack, since train.eval_every is ", config_.train.eval_every);
  check(!(config_.device == DeviceChoice::cpu && config_.precision == DType::bf16), at("precision"),
        ": found bf16 with device cpu, expected f32 there");
  const bool cudnn = config_.attention.backend == AttentionBackend::cudnn;
  check(!cudnn || config_.device != DeviceChoice::cpu, at("attention.backend"),
        ": found cudnn with device cpu, expected native there");
  check(!cudnn || config_.precision == DType::bf16, at("attention.backend"),
        ": found cudnn with precision f32, expected native, or precision bf16");
}

void ConfigReader::check_recompute() const {
  using Kind = RecomputeLayers::Kind;
  const TrainSection& train = config_.train;
  check(train.recompute_layers.kind == Kind::all || train.recompute_every == 1, at("train.recompute_layers"),
        ": found it beside train.recompute_every = ", train.recompute_every, ", expected one of the two");
  check(train.recompute_layers.kind != Kind::automatic || config_.run.memory_limit.bytes > 0,
        at("train.recompute_layers"), ": found auto without run.memory_limit, expected a limit to keep within");
}

void ConfigReader::check_teach() const {
  const TeachModel& model = config_.teach.model;
  const auto divides = [&](int64_t divisor, int64_t of, const char* key, const char* of_key) {
    check(of % divisor == 0, at(key), ": found ", divisor, ", expected a divisor of ", of_key, " = ", of);
  };
  divides(model.heads, model.hidden, "teach.model.heads", "teach.model.hidden");
  divides(model.kv_heads, model.heads, "teach.model.kv_heads", "teach.model.heads");
  divides(model.vision.heads, model.vision.width, "teach.model.vision.heads", "teach.model.vision.width");
  divides(model.vision.patch, model.vision.image_size, "teach.model.vision.patch", "teach.model.vision.image_size");
  const int64_t head = model.hidden / model.heads;
  const auto rotated = static_cast<int64_t>(model.rotary_fraction * static_cast<double>(head));
  check(rotated % 2 == 0, at("teach.model.rotary_fraction"), ": found ", model.rotary_fraction, " (", rotated, " of ",
        head, " dimensions), expected an even number of dimensions");
}

}  // namespace matvlm
