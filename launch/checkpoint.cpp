// Writing, verifying, loading and pruning of checkpoints.
#include "launch/checkpoint.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>
#include <system_error>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/json.h"
#include "core/safetensors.h"
#include "layers/tensors.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;

constexpr const char* kModelFile = "model.safetensors";
constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kConfigFile = "config.yaml";
constexpr const char* kStateFile = "state.json";
constexpr const char* kMoment1 = "moment1/";
constexpr const char* kMoment2 = "moment2/";

// One tensor of a file: its name there and the parameter's values that are written or read.
struct Slot {
  std::string name;
  Float32View tensor;
};

std::vector<Slot> master_slots(const ParameterStore& parameters) {
  std::vector<Slot> slots;
  for (const auto& p : parameters.parameters()) slots.push_back({p->name, p->master});
  return slots;
}

std::vector<Slot> moment_slots(const ParameterStore& parameters) {
  std::vector<Slot> slots;
  for (const auto& p : parameters.parameters()) {
    slots.push_back({kMoment1 + p->name, p->moment1});
    slots.push_back({kMoment2 + p->name, p->moment2});
  }
  return slots;
}

void write_slots(Context& ctx, const std::vector<Slot>& slots, const std::string& path) {
  std::vector<TensorSpec> specs;
  std::map<std::string, const Slot*> by_name;
  for (const Slot& slot : slots) {
    specs.push_back({slot.name, DType::f32, slot.tensor.shape()});
    by_name[slot.name] = &slot;
  }
  SafetensorsWriter writer(path, specs);
  for (const TensorSpec& spec : writer.order()) {
    writer.append_floats(spec.name, by_name.at(spec.name)->tensor.to_floats(ctx));
  }
  writer.commit();
}

void append_problem(std::string& list, const std::string& problem) { list += (list.empty() ? "" : "; ") + problem; }

// Every difference between what a file holds and what is wanted, in one message.
void check_slots(const std::vector<Slot>& slots, const TensorSource& source, bool allow_more) {
  std::string problems;
  std::set<std::string> wanted;
  for (const Slot& slot : slots) {
    const std::string name = name_in_source(source, slot.name);  // an export may leave a prefix out
    wanted.insert(name);
    if (name.empty()) {
      append_problem(problems, cat("missing '", slot.name, "' ", shape_string(slot.tensor.shape())));
      continue;
    }
    const TensorInfo& info = source.info(name);
    if (info.shape != slot.tensor.shape()) {
      append_problem(problems, cat("'", slot.name, "' has shape ", shape_string(info.shape), ", expected ",
                                   shape_string(slot.tensor.shape())));
    }
    if (!info.holds_floats()) {
      append_problem(problems, cat("'", slot.name, "' has dtype ", info.type, ", expected F32, BF16 or F16"));
    }
  }
  for (const std::string& name : source.names()) {
    if (!allow_more && !wanted.contains(name)) append_problem(problems, cat("unexpected '", name, "'"));
  }
  check(problems.empty(), source.path(), ": found other tensors than expected: ", problems);
}

void read_slots(Context& ctx, const std::vector<Slot>& slots, const TensorSource& source, bool allow_more) {
  check_slots(slots, source, allow_more);
  for (const Slot& slot : slots) {
    const std::vector<float> values = source.read_floats(name_in_source(source, slot.name));
    slot.tensor.copy_from_floats(ctx, values);
  }
}

Json state_json(const RunState& state) {
  Json fingerprints = Json::object();
  for (const auto& [name, value] : state.fingerprints) fingerprints.set(name, value);
  Json json = Json::object();
  json.set("format_version", RunState::kFormatVersion).set("kind", state.kind);
  json.set("update", state.update).set("samples", state.samples);
  json.set("epoch", state.epoch).set("cursor", state.cursor);
  json.set("seed", state.seed).set("ranks", state.ranks);
  json.set("evaluated", state.evaluated).set("best_score", state.best_score).set("best_update", state.best_update);
  json.set("evaluated_update", state.evaluated_update);
  return json.set("fingerprints", fingerprints);
}

RunState state_from(const Json& json) {
  const int64_t version = json.at("format_version").as_int();
  check(version == RunState::kFormatVersion, json.at("format_version").where(), ": found ", version, ", expected ",
        RunState::kFormatVersion);
  RunState state;
  state.kind = json.at("kind").as_string();
  state.update = json.at("update").as_int();
  state.samples = json.at("samples").as_int();
  state.epoch = json.at("epoch").as_int();
  state.cursor = json.at("cursor").as_int();
  state.seed = json.at("seed").as_int();
  state.ranks = json.at("ranks").as_int();
  state.evaluated = json.at("evaluated").as_bool();
  state.best_score = json.at("best_score").as_double();
  state.best_update = json.at("best_update").as_int();
  state.evaluated_update = json.at("evaluated_update").as_int();
  const Json fingerprints = json.at("fingerprints");
  for (const std::string& name : fingerprints.keys()) state.fingerprints[name] = fingerprints.at(name).as_string();
  return state;
}

// state.json with the hashes of the other files and, last, of its own text without that line.
std::string sealed(Json state, const std::string& directory) {
  Json files = Json::object();
  for (const char* name : {kModelFile, kOptimizerFile, kConfigFile}) {
    const std::string path = directory + "/" + name;
    Json entry = Json::object();
    entry.set("bytes", static_cast<int64_t>(fs::file_size(path))).set("hash", hash_file(path).hex());
    files.set(name, entry);
  }
  state.set("files", files);
  state.set("checksum", hash128(state.dump()).hex());
  return state.dump(2) + "\n";
}

}  // namespace

std::string state_text(const RunState& state) { return state_json(state).dump(); }

RunState state_from_text(const std::string& text, const std::string& source) {
  return state_from(Json::parse(text, source));
}

void write_checkpoint(Context& ctx, const ParameterStore& parameters, const RunState& state,
                      const std::string& config_yaml, const std::string& directory) {
  AtomicDirectory target(directory);
  write_slots(ctx, master_slots(parameters), target.file(kModelFile));
  write_slots(ctx, moment_slots(parameters), target.file(kOptimizerFile));
  write_file_atomic(target.file(kConfigFile), config_yaml);
  write_file_atomic(target.file(kStateFile), sealed(state_json(state), target.path()));
  target.commit();
}

RunState read_checkpoint_state(const std::string& directory) {
  const std::string path = directory + "/" + kStateFile;
  const Json json = Json::read_file(path);
  const std::string checksum = json.at("checksum").as_string();
  Json unsealed = Json::object();
  for (const std::string& key : json.keys()) {
    if (key != "checksum") unsealed.set(key, json.at(key));
  }
  const std::string computed = hash128(unsealed.dump()).hex();
  check(computed == checksum, path, ": key 'checksum': found ", checksum, ", expected ", computed);
  const Json files = json.at("files");
  for (const std::string& name : files.keys()) {
    const std::string file = directory + "/" + name;
    std::error_code error;
    const auto bytes = static_cast<int64_t>(fs::file_size(file, error));
    check(!error, file, ": cannot read: ", error.message());
    const int64_t expected_bytes = files.at(name).at("bytes").as_int();
    check(bytes == expected_bytes, file, ": found ", bytes, " bytes, expected ", expected_bytes);
    const std::string hash = hash_file(file).hex();
    const std::string expected_hash = files.at(name).at("hash").as_string();
    check(hash == expected_hash, file, ": found contents of hash ", hash, ", expected ", expected_hash);
  }
  return state_from(json);
}

void load_masters(Context& ctx, ParameterStore& parameters, const TensorSource& source, bool allow_more,
                  const std::function<bool(const std::string&)>& wanted) {
  std::vector<Slot> slots = master_slots(parameters);
  if (wanted) std::erase_if(slots, [&](const Slot& slot) { return !wanted(slot.name); });
  read_slots(ctx, slots, source, allow_more);
  parameters.refresh_compute(ctx);
}

void load_checkpoint(Context& ctx, ParameterStore& parameters, const std::string& directory) {
  const TensorSource model = TensorSource::open(directory + "/" + kModelFile);
  const TensorSource optimizer = TensorSource::open(directory + "/" + kOptimizerFile);
  check_slots(moment_slots(parameters), optimizer, false);  // before anything is changed
  load_masters(ctx, parameters, model, false);
  read_slots(ctx, moment_slots(parameters), optimizer, false);
}

CheckpointFolder::CheckpointFolder(const std::string& run_dir, int64_t keep)
    : path_(run_dir + "/checkpoints"), keep_(keep) {
  check(keep >= 1, "key 'train.keep': found ", keep, ", expected at least 1");
}

std::string CheckpointFolder::directory_of(int64_t update) const {
  char name[64];
  std::snprintf(name, sizeof(name), "/step-%08lld", static_cast<long long>(update));
  return path_ + name;
}

std::vector<int64_t> CheckpointFolder::updates() const {
  std::vector<int64_t> found;
  if (!fs::exists(path_)) return found;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_)) {
    const std::string name = entry.path().filename().string();
    constexpr std::string_view kPrefix = "step-";
    const bool ours = name.starts_with(kPrefix) && name.size() > kPrefix.size() && name.size() < 24 &&
                      name.find_first_not_of("0123456789", kPrefix.size()) == std::string::npos;
    if (ours && entry.is_directory()) found.push_back(std::stoll(name.substr(kPrefix.size())));
  }
  std::sort(found.begin(), found.end());
  return found;
}

void CheckpointFolder::save(Context& ctx, const ParameterStore& parameters, const RunState& state,
                            const std::string& config_yaml) const {
  std::error_code error;
  fs::create_directories(path_, error);
  check(!error, path_, ": cannot create the folder: ", error.message());
  write_checkpoint(ctx, parameters, state, config_yaml, directory_of(state.update));
  prune(state.update, state.evaluated ? state.best_update : 0);
}

std::optional<CheckpointFolder::Found> CheckpointFolder::find_latest(
    const std::function<void(const std::string&)>& warn) const {
  std::vector<int64_t> candidates = updates();
  std::string problems;
  for (auto update = candidates.rbegin(); update != candidates.rend(); ++update) {
    try {
      const RunState state = read_checkpoint_state(directory_of(*update));
      check(state.update == *update, directory_of(*update), ": found the state of update ", state.update,
            ", expected that of ", *update);
      return Found{*update, state};
    } catch (const Error& damage) {
      append_problem(problems, damage.what());
      if (*update != candidates.front()) warn(cat("damaged checkpoint, trying the one before it: ", damage.what()));
    }
  }
  check(candidates.empty(), path_, ": found only damaged checkpoints: ", problems);
  return std::nullopt;
}

void CheckpointFolder::prune(int64_t newest, int64_t best) const {
  std::vector<int64_t> all = updates();
  const auto past = std::upper_bound(all.begin(), all.end(), newest);
  const int64_t first_kept = static_cast<int64_t>(past - all.begin()) - keep_;
  for (size_t i = 0; i < all.size(); ++i) {
    const bool recent = static_cast<int64_t>(i) >= first_kept && all[i] <= newest;
    if (recent || (best > 0 && all[i] == best)) continue;
    // Out of the way by one rename first: a killed removal must not leave half a checkpoint under a valid name. Such
    // names are what remove_stale_temporaries clears away.
    const std::string directory = directory_of(all[i]);
    const std::string doomed = directory + ".tmp-0-0";
    std::error_code error;
    fs::remove_all(doomed, error);
    fs::rename(directory, doomed, error);
    check(!error, directory, ": cannot remove this old checkpoint: ", error.message());
    fs::remove_all(doomed, error);
    check(!error, doomed, ": cannot remove this old checkpoint: ", error.message());
  }
}

}  // namespace matvlm
