#include "launch/model_folder.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>

#include "core/file.h"
#include "core/log.h"
#include "distill/student.h"
#include "launch/checkpoint.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;

// Where a run's tensors come from: trained ones by name from `trained`, the others from `frozen`.
struct RunTensors {
  RunConfig run;
  ModelConfig config;
  std::string tokenizer_file;
  std::optional<TensorSource> frozen;  // the teacher's files; none for a taught model
  ValueSource values;                  // of every tensor of the model
};

ValueSource first_of(ValueSource first, ValueSource second) {
  return [first = std::move(first), second = std::move(second)](const std::string& name) {
    std::vector<float> values = first(name);
    return values.empty() ? second(name) : values;
  };
}

// Start values of a student, as a fresh run makes them.
ValueSource student_start(const ModelConfig& config, const StudentConfig& student, const std::string& init_from,
                          const ValueSource& teacher, uint64_t seed) {
  if (!init_from.empty()) return first_of(values_from(TensorSource::open(init_from)), teacher);
  return [config, student, teacher, seed](const std::string& name) {
    for (const int64_t layer : config.mamba.ssm_layers) {
      for (const ModelTensor& t : mamba_tensors(config, layer)) {
        if (t.name != name) continue;
        const ValueSource* attention = student.init == MixerInit::attention ? &teacher : nullptr;
        return init_mamba_tensor(config, layer, t, attention, seed);
      }
    }
    return teacher(name);
  };
}

RunTensors run_tensors(const std::string& run, ExportFrom from, int64_t update) {
  RunTensors out;
  out.run = load_config(run + "/config.yaml");
  const auto seed = static_cast<uint64_t>(out.run.run.seed);
  ValueSource start;
  if (out.run.kind == RunKind::distill) {
    const std::string& teacher = out.run.teacher.path;
    const ModelConfig teacher_config = read_model_config(teacher);
    const StudentConfig student = resolved_student(out.run, teacher_config);
    out.config = student_config(teacher_config, student);
    out.config.max_length = out.run.data.max_length;
    out.tokenizer_file = teacher + "/tokenizer.json";
    out.frozen = TensorSource::open(teacher);
    start = student_start(out.config, student, out.run.student.init_from, values_from(*out.frozen), seed);
  } else {
    const Tokenizer tokenizer = Tokenizer::read_file(out.run.teach.tokenizer);
    out.config =
        taught_config(out.run.teach.model, tokenizer.vocab_size(), out.run.data.max_length, out.run.data.image_aspect);
    out.tokenizer_file = out.run.teach.tokenizer;
    start = [config = out.config, seed](const std::string& name) {
      for (const ModelTensor& t : model_tensors(config)) {
        if (t.name == name) return init_random_tensor(config, t, seed);
      }
      return std::vector<float>();
    };
  }
  if (from == ExportFrom::start) {
    out.values = start;
    return out;
  }
  const std::string checkpoint = checkpoint_directory(run, from, update);
  read_checkpoint_state(checkpoint);  // verifies the files' hashes
  const TensorSource trained = TensorSource::open(checkpoint + "/model.safetensors");
  out.values = first_of(values_from(trained), start);
  return out;
}

// What the teacher's files hold beyond the model.
std::vector<std::string> extra_names(const RunTensors& tensors) {
  std::vector<std::string> out;
  if (!tensors.frozen) return out;
  for (const std::string& name : tensors.frozen->names()) {
    if (is_unused_tensor(tensors.config, name) && tensors.frozen->info(name).dtype) out.push_back(name);
  }
  return out;
}

void write_tensors(const RunTensors& tensors, const std::string& path, DType dtype) {
  std::vector<TensorSpec> specs;
  std::map<std::string, std::string> own;  // name in the file -> of the model
  for (const ModelTensor& t : model_tensors(tensors.config)) {
    const std::string name = export_name(tensors.config, t.name);
    specs.push_back({name, t.keep_float32 ? DType::f32 : dtype, t.shape});
    own[name] = t.name;
  }
  for (const std::string& name : extra_names(tensors)) {
    const SafetensorsInfo& info = tensors.frozen->info(name);
    specs.push_back({name, *info.dtype, info.shape});
  }
  SafetensorsWriter writer(path, specs);
  for (const TensorSpec& spec : writer.order()) {
    if (!own.contains(spec.name)) {
      writer.append(spec.name, tensors.frozen->bytes(spec.name));
      continue;
    }
    const std::vector<float> values = tensors.values(own.at(spec.name));
    check(static_cast<int64_t>(values.size()) == shape_numel(spec.shape), path, ": no values for '", spec.name, "'");
    writer.append_floats(spec.name, values);
  }
  writer.commit();
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

// A folder with anything in it that an export does not write is not replaced.
void check_replaceable(const std::string& out) {
  static const std::set<std::string> kOurs = {"config.json", "mamba_config.json", "model.safetensors",
                                              "preprocessor_config.json", "tokenizer.json"};
  if (!fs::exists(out)) return;
  check(fs::is_directory(out), out, ": found a file, expected nothing or an exported folder");
  for (const fs::directory_entry& entry : fs::directory_iterator(out)) {
    const std::string name = entry.path().filename().string();
    check(kOurs.contains(name), out, ": found '", name, "' in it, expected nothing or an exported folder to replace");
  }
}

bool same_values(const std::vector<float>& a, const std::vector<float>& b, bool rounded) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [rounded](float x, float y) {
    return rounded ? bf16(x).bits == bf16(y).bits : std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(y);
  });
}

}  // namespace

LoadedModel load_model_folder(Context& ctx, const std::string& dir, DType dtype) {
  LoadedModel model;
  model.folder = dir;
  model.config = read_model_config(dir);
  model.weights = load_frozen_weights(ctx, model.config, TensorSource::open(dir), dtype);
  model.vlm = make_vlm(model.weights, model.config);
  return model;
}

LoadedModel load_model(Context& ctx, const std::string& path, DType dtype) {
  if (fs::exists(path + "/config.json")) return load_model_folder(ctx, path, dtype);
  check(fs::exists(path + "/config.yaml"), path, ": found neither config.json (a model) nor config.yaml (a run)");
  const RunTensors tensors = run_tensors(path, ExportFrom::best, 0);
  LoadedModel model;
  model.folder = fs::path(tensors.tokenizer_file).parent_path().string();
  model.config = tensors.config;
  model.weights = make_weights(
      ctx, tensors.config, dtype, [](const std::string&) { return false; }, tensors.values);
  model.vlm = make_vlm(model.weights, model.config);
  return model;
}

Tokenizer load_tokenizer(const LoadedModel& model) {
  const Tokenizer tokenizer = Tokenizer::read_file(model.folder + "/tokenizer.json");
  check(tokenizer.vocab_size() <= model.config.text.vocab, model.folder, "/tokenizer.json: found ",
        tokenizer.vocab_size(), " tokens, the model's vocabulary has ", model.config.text.vocab);
  return tokenizer;
}

ImagePreprocess preprocess_of(const ModelConfig& config) {
  ImagePreprocess how;
  if (config.vision) how.size = config.vision->image_size;
  how.aspect = config.image_aspect == "pad" ? ImageAspect::pad : ImageAspect::square;
  return how;
}

std::string checkpoint_directory(const std::string& run, ExportFrom from, int64_t update) {
  const CheckpointFolder folder(run, 1);
  if (from == ExportFrom::update) {
    const std::string dir = folder.directory_of(update);
    check(fs::exists(dir), run, ": no checkpoint of update ", update);
    return dir;
  }
  const auto latest = folder.find_latest(log_warn);
  check(latest.has_value(), run, ": no checkpoint");
  const bool best =
      from == ExportFrom::best && latest->state.evaluated && fs::exists(folder.directory_of(latest->state.best_update));
  return folder.directory_of(best ? latest->state.best_update : latest->update);
}

void export_run(const std::string& run, const std::string& out, ExportFrom from, int64_t update, DType dtype) {
  const RunTensors tensors = run_tensors(run, from, update);
  if (tensors.frozen && tensors.run.kind == RunKind::distill) {
    check_source(read_model_config(tensors.run.teacher.path), *tensors.frozen);
  }
  check_replaceable(out);
  AtomicDirectory dir(out);
  write_tensors(tensors, dir.file("model.safetensors"), dtype);
  write_model_config(tensors.config, dir.path());
  write_preprocessor(tensors.config, dir.path());
  write_file_atomic(dir.file("tokenizer.json"), read_file(tensors.tokenizer_file));
  dir.commit();
}

ModelConfig taught_config(const TeachModel& model, int64_t vocab, int64_t max_length, ImageAspect aspect) {
  ModelConfig c;
  c.text.hidden = model.hidden;
  c.text.layers = model.layers;
  c.text.heads = model.heads;
  c.text.kv_heads = model.kv_heads;
  c.text.head_dim = model.hidden / model.heads;
  c.text.mlp = model.mlp;
  c.text.vocab = vocab;
  c.text.rotary_dims = static_cast<int64_t>(std::floor(model.rotary_fraction * static_cast<double>(c.text.head_dim)));
  check(c.text.rotary_dims % 2 == 0, "teach.model.rotary_fraction: ", model.rotary_fraction, " of a head of ",
        c.text.head_dim, " gives ", c.text.rotary_dims, " rotary dimensions, expected an even number");
  c.text.max_positions = max_length;
  VisionConfig v;
  v.hidden = model.vision.width;
  v.mlp = model.vision.mlp;
  v.layers = model.vision.layers;
  v.heads = model.vision.heads;
  v.image_size = model.vision.image_size;
  v.patch_size = model.vision.patch;
  // A model made here has no block that nothing uses and no class token to drop.
  v.feature_layer = -1;
  v.drop_first_patch = false;
  c.vision = v;
  c.max_length = max_length;
  c.image_aspect = aspect == ImageAspect::pad ? "pad" : "square";
  return c;
}

StudentConfig resolved_student(const RunConfig& config, const ModelConfig& teacher) {
  StudentConfig student = config.student;
  student.ssm_layers = resolve_ssm_layers(config.student, teacher.text.layers);
  return student;
}

void check_start_is_kept(const ModelConfig& student, const ParameterStore& trained, const std::string& start,
                         const std::string& teacher) {
  const TensorSource from = TensorSource::open(start);
  const TensorSource frozen = TensorSource::open(teacher);
  std::string lost;
  for (const ModelTensor& t : model_tensors(student)) {
    const std::string own = name_in_source(from, t.name);
    const std::string other = name_in_source(frozen, t.name);
    if (own.empty() || other.empty() || trained.find(t.name) != nullptr) continue;
    const bool rounded = from.info(own).dtype == DType::bf16 || frozen.info(other).dtype == DType::bf16;
    if (!same_values(from.read_floats(own), frozen.read_floats(other), rounded)) lost += cat("; '", t.name, "'");
  }
  check(lost.empty(), start,
        ": found other values than the teacher's in tensors that student.tune_connector and "
        "student.trainable do not train, expected the same",
        lost);
}

}  // namespace matvlm
