#include "launch/export.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "core/file.h"
#include "core/gguf_model.h"
#include "core/json.h"
#include "core/safetensors.h"
#include "layers/init.h"
#include "layers/tensors.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;

constexpr double kLargestHalf = 65504.0;
constexpr const char* kEmbedding = "language_model.model.embed_tokens.weight";
constexpr const char* kHead = "language_model.lm_head.weight";
constexpr const char* kIndexName = "model.safetensors.index.json";
// Files of a Hugging Face folder that say how its tokenizer and generation are set up; a teacher keeps those it has.
constexpr const char* kSideFiles[] = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                      "generation_config.json", "preprocessor_config.json"};

// A tensor to write and where its data come from.
struct OutputTensor {
  TensorSpec spec;
  std::string name;        // of the model, which the file may leave a prefix out of
  bool as_stored = false;  // bytes of the frozen files, else values in spec.dtype
};

int64_t bytes_of(const TensorSpec& spec) { return shape_numel(spec.shape) * dtype_size(spec.dtype); }

std::vector<OutputTensor> student_tensors(const RunTensors& tensors, DType dtype) {
  std::vector<OutputTensor> out;
  std::set<std::string> written;
  const auto add = [&](const OutputTensor& tensor) {
    if (written.insert(tensor.spec.name).second) out.push_back(tensor);
  };
  for (const ModelTensor& t : model_tensors(tensors.config)) {
    const DType as = t.keep_float32 ? DType::f32 : dtype;
    add({{export_name(tensors.config, t.name), as, t.shape}, t.name});
    // A head that is the embedding once more under its own name: the published classes look for every name of theirs.
    const bool shared = tensors.config.text.tied_head && !tensors.config.mamba.ssm_layers.empty();
    if (shared && t.name == kEmbedding) add({{export_name(tensors.config, kHead), as, t.shape}, t.name});
  }
  if (!tensors.frozen) return out;
  for (const std::string& name : tensors.frozen->names()) {
    const TensorInfo& info = tensors.frozen->info(name);
    if (is_unused_tensor(tensors.config, name) && info.dtype) add({{name, *info.dtype, info.shape}, name, true});
  }
  return out;
}

std::vector<OutputTensor> teacher_tensors(const TensorSource& source, std::optional<DType> dtype) {
  std::vector<OutputTensor> out;
  for (const std::string& name : source.names()) {
    const TensorInfo& info = source.info(name);
    const bool convert = info.quantised || (dtype && info.holds_floats());
    check(convert || info.dtype, source.path(), ": tensor '", name, "': found type ", info.type,
          ", expected one that can be written");
    const DType as = convert ? dtype.value_or(DType::f32) : *info.dtype;
    out.push_back({{name, as, info.shape}, name, as == info.dtype});
  }
  return out;
}

// Consecutive tensors up to shard_bytes each, one at least.
std::vector<std::vector<OutputTensor>> split_into_shards(const std::vector<OutputTensor>& tensors,
                                                         int64_t shard_bytes) {
  std::vector<std::vector<OutputTensor>> shards(1);
  int64_t used = 0;
  for (const OutputTensor& tensor : tensors) {
    const int64_t size = bytes_of(tensor.spec);
    if (shard_bytes > 0 && !shards.back().empty() && used > shard_bytes - size) {
      shards.emplace_back();
      used = 0;
    }
    shards.back().push_back(tensor);
    used += size;
  }
  return shards;
}

void write_values(SafetensorsWriter& writer, const OutputTensor& tensor, const RunTensors& tensors) {
  const TensorSpec& spec = tensor.spec;
  const std::vector<float> values = tensors.values(tensor.name);
  check(static_cast<int64_t>(values.size()) == shape_numel(spec.shape), "[export] no values for '", spec.name, "'");
  if (spec.dtype == DType::f16) {
    const auto large = std::find_if(values.begin(), values.end(), [](float x) { return std::abs(x) > kLargestHalf; });
    check(large == values.end(), "[export] '", spec.name, "': found ", large == values.end() ? 0.0F : *large,
          ", which f16 cannot hold (at most ", kLargestHalf, "); expected --dtype bf16 or f32");
  }
  writer.append_floats(spec.name, values);
}

void write_file(const std::string& path, const std::vector<OutputTensor>& shard, const RunTensors& tensors) {
  std::vector<TensorSpec> specs;
  std::map<std::string, const OutputTensor*> by_name;
  for (const OutputTensor& tensor : shard) {
    specs.push_back(tensor.spec);
    by_name[tensor.spec.name] = &tensor;
  }
  SafetensorsWriter writer(path, specs);
  for (const TensorSpec& spec : writer.order()) {
    const OutputTensor& tensor = *by_name.at(spec.name);
    if (tensor.as_stored) {
      writer.append(spec.name, tensors.frozen->read_bytes(spec.name));
    } else {
      write_values(writer, tensor, tensors);
    }
  }
  writer.commit();
}

std::string shard_name(size_t index, size_t count) {
  char text[64];
  std::snprintf(text, sizeof(text), "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return text;
}

void write_tensors(const AtomicDirectory& dir, const std::vector<OutputTensor>& tensors, const RunTensors& source,
                   int64_t shard_bytes) {
  const auto shards = split_into_shards(tensors, shard_bytes);
  if (shards.size() == 1) return write_file(dir.file("model.safetensors"), shards.front(), source);
  check(shards.size() <= 99999, "--max-shard-size: found a size that makes ", shards.size(),
        " files, expected at most 99999");
  int64_t total = 0;
  std::string map;  // built as text: an object grows by search
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string file = shard_name(i, shards.size());
    for (const OutputTensor& tensor : shards[i]) {
      map += cat(map.empty() ? "" : ",", "\n    ", Json::of(std::string_view(tensor.spec.name)).dump(), ": \"", file,
                 "\"");
      total += bytes_of(tensor.spec);
    }
    write_file(dir.file(file), shards[i], source);
  }
  write_file_atomic(dir.file(kIndexName),
                    cat("{\n  \"metadata\": {\"total_size\": ", total, "},\n  \"weight_map\": {", map, "\n  }\n}\n"));
}

void write_preprocessor(const ModelConfig& config, const std::string& dir) {
  if (!config.vision) return;
  const auto triple = [] {
    Json list = Json::array();
    for (int i = 0; i < 3; ++i) list.push(Json::of(0.5));
    return list;
  };
  Json json = Json::object();
  json.set("image_processor_type", "SiglipImageProcessor")
      .set("do_resize", true)
      .set("do_rescale", true)
      .set("do_normalize", true)
      .set("resample", 3)
      .set("rescale_factor", 1.0 / 255.0)
      .set("image_mean", triple())
      .set("image_std", triple())
      .set("size", Json::object().set("height", config.vision->image_size).set("width", config.vision->image_size));
  write_file_atomic(dir + "/preprocessor_config.json", json.dump(2) + "\n");
}

bool is_shard_name(const std::string& name) {
  unsigned index = 0;
  unsigned count = 0;
  int used = 0;
  return std::sscanf(name.c_str(), "model-%5u-of-%5u.safetensors%n", &index, &count, &used) == 2 &&
         used == static_cast<int>(name.size());
}

// A folder with anything in it that an export does not write is not replaced.
void check_replaceable(const std::string& out) {
  std::set<std::string> ours = {"config.json", "mamba_config.json", "model.safetensors", kIndexName};
  ours.insert(std::begin(kSideFiles), std::end(kSideFiles));
  if (!fs::exists(out)) return;
  check(fs::is_directory(out), out, ": found a file, expected nothing or an exported folder");
  for (const fs::directory_entry& entry : fs::directory_iterator(out)) {
    const std::string name = entry.path().filename().string();
    check(ours.contains(name) || is_shard_name(name), out, ": found '", name,
          "' in it, expected nothing or an exported folder to replace");
  }
}

// The config: the teacher's own where that is TinyLLaVA's, since the published classes look for more in it (the names
// of the language model and the tower on the hub) than a model's sizes. Of a language model they look for its name.
void write_config(const RunTensors& tensors, const std::string& dir) {
  write_model_config(tensors.config, dir);
  const std::string own = tensors.folder + "/config.json";
  if (tensors.folder.empty() || !fs::exists(own)) return;
  Json json = Json::read_file(own);
  if (!json.has("text_config") || !json.has("model_type")) {
    if (!json.has("_name_or_path") || !json.at("_name_or_path").is_string()) return;
    Json written = Json::read_file(dir + "/config.json");
    written.set("_name_or_path", json.at("_name_or_path"));
    return write_file_atomic(dir + "/config.json", written.dump(2) + "\n");
  }
  if (tensors.config.max_length > 0) json.set("tokenizer_model_max_length", tensors.config.max_length);
  write_file_atomic(dir + "/config.json", json.dump(2) + "\n");
}

void write_tokenizer(const std::string& from, const std::string& to) {
  const std::string gguf = gguf_file_of(from);
  write_file_atomic(to, gguf.empty() ? read_file(from) : gguf_tokenizer_json(GgufFile(gguf)));
}

void copy_side_files(const std::string& folder, const std::string& out) {
  for (const char* name : kSideFiles) {
    const std::string file = folder + "/" + name;
    if (fs::exists(file)) write_file_atomic(out + "/" + name, read_file(file));
  }
}

void export_student(const RunTensors& tensors, const AtomicDirectory& dir, const ExportOptions& options) {
  write_tensors(dir, student_tensors(tensors, options.dtype.value_or(DType::f32)), tensors, options.shard_bytes);
  if (!tensors.folder.empty()) copy_side_files(tensors.folder, dir.path());
  write_config(tensors, dir.path());
  write_preprocessor(tensors.config, dir.path());
  write_tokenizer(tensors.tokenizer_file, dir.file("tokenizer.json"));
}

void export_teacher(const RunTensors& tensors, const AtomicDirectory& dir, const ExportOptions& options) {
  check(tensors.frozen.has_value(),
        "--format hf-teacher: found a run of `matvlm teach`, expected one of `matvlm distill`");
  RunTensors teacher;
  teacher.folder = tensors.folder;
  teacher.config = read_model_config(tensors.folder);
  teacher.frozen = tensors.frozen;
  teacher.values = [source = *tensors.frozen](const std::string& name) { return source.read_floats(name); };
  write_tensors(dir, teacher_tensors(*teacher.frozen, options.dtype), teacher, options.shard_bytes);
  const std::string own = tensors.folder + "/config.json";
  if (fs::exists(own)) {
    write_file_atomic(dir.file("config.json"), read_file(own));
  } else {
    write_model_config(teacher.config, dir.path());
  }
  copy_side_files(tensors.folder, dir.path());
  if (!fs::exists(dir.file("tokenizer.json")) && fs::exists(tensors.tokenizer_file)) {
    write_tokenizer(tensors.tokenizer_file, dir.file("tokenizer.json"));
  }
}

}  // namespace

void export_model(const std::string& path, const std::string& out, const ExportOptions& options) {
  const RunTensors tensors = run_tensors(path, options.from, options.update);
  check_replaceable(out);
  AtomicDirectory dir(out);
  if (options.format == ExportFormat::hf_teacher) {
    export_teacher(tensors, dir, options);
  } else {
    export_student(tensors, dir, options);
  }
  dir.commit();
}

void write_random_model(const ModelConfig& config, const std::string& folder, const std::string& out, DType dtype,
                        uint64_t seed, int64_t shard_bytes) {
  RunTensors tensors;
  tensors.config = config;
  tensors.folder = folder;
  std::map<std::string, ModelTensor> by_name;
  for (const ModelTensor& t : model_tensors(config)) by_name[t.name] = t;
  tensors.values = [&](const std::string& name) { return init_random_tensor(config, by_name.at(name), seed); };
  check_replaceable(out);
  AtomicDirectory dir(out);
  write_tensors(dir, student_tensors(tensors, dtype), tensors, shard_bytes);
  write_config(tensors, dir.path());
  write_preprocessor(config, dir.path());
  if (fs::exists(folder + "/tokenizer.json")) write_tokenizer(folder + "/tokenizer.json", dir.file("tokenizer.json"));
  dir.commit();
}

int64_t parse_byte_size(const std::string& text, const std::string& what) {
  constexpr std::pair<std::string_view, int64_t> kUnits[] = {{"", 1},          {"B", 1},           {"KB", 1000},
                                                             {"MB", 1000000},  {"GB", 1000000000}, {"KiB", 1 << 10},
                                                             {"MiB", 1 << 20}, {"GiB", 1 << 30}};
  int64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  const std::string_view unit(stop, static_cast<size_t>(end - stop));
  for (const auto& [name, factor] : kUnits) {
    int64_t bytes = 0;
    if (error != std::errc() || unit != name || number <= 0) continue;
    if (!__builtin_mul_overflow(number, factor, &bytes)) return bytes;
  }
  fail(what, ": found '", text, "', expected a size as 500MB, 5GB or 2GiB");
}

}  // namespace matvlm
