#include "launch/model_folder.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>

#include "core/gguf_model.h"
#include "distill/student.h"
#include "launch/run_model.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;

bool same_values(const std::vector<float>& a, const std::vector<float>& b, bool rounded) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [rounded](float x, float y) {
    return rounded ? bf16(x).bits == bf16(y).bits : std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(y);
  });
}

}  // namespace

LoadedModel load_model_folder(Context& ctx, const std::string& dir, DType dtype, bool in_fp8) {
  LoadedModel model;
  model.tokenizer_file = tokenizer_file_of(dir);
  model.config = read_model_config(dir);
  model.weights = load_frozen_weights(ctx, model.config, TensorSource::open(dir), dtype);
  if (in_fp8) hold_in_fp8(ctx, model.config, model.weights);
  model.vlm = make_vlm(model.weights, model.config);
  return model;
}

LoadedModel load_model(Context& ctx, const std::string& path, DType dtype) {
  if (is_model_on_disk(path)) return load_model_folder(ctx, path, dtype);
  check(fs::exists(path + "/config.yaml"), path, ": found neither config.json (a model) nor config.yaml (a run)");
  const RunTensors tensors = run_tensors(path, ExportFrom::best, 0);
  LoadedModel model;
  model.tokenizer_file = tensors.tokenizer_file;
  model.config = tensors.config;
  model.weights = make_weights(
      ctx, tensors.config, dtype, [](const std::string&) { return false; }, tensors.values);
  model.vlm = make_vlm(model.weights, model.config);
  return model;
}

bool is_model_on_disk(const std::string& path) {
  return fs::exists(path + "/config.json") || fs::exists(path + "/language_model/config.json") ||
         (fs::exists(path) && !gguf_file_of(path).empty());
}

std::string tokenizer_file_of(const std::string& model) {
  const std::string file = model + "/tokenizer.json";
  const std::string gguf = fs::exists(file) ? "" : gguf_file_of(model);
  return gguf.empty() ? file : gguf;
}

Tokenizer load_tokenizer(const LoadedModel& model) {
  const Tokenizer tokenizer = Tokenizer::read_file(model.tokenizer_file);
  check(tokenizer.vocab_size() <= model.config.text.vocab, model.tokenizer_file, ": found ", tokenizer.vocab_size(),
        " tokens, the model's vocabulary has ", model.config.text.vocab);
  return tokenizer;
}

ImagePreprocess preprocess_of(const ModelConfig& config) {
  ImagePreprocess how;
  if (config.vision) how.size = config.vision->image_size;
  how.aspect = config.image_aspect == "pad" ? ImageAspect::pad : ImageAspect::square;
  return how;
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
