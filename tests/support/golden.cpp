#include "tests/support/golden.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

namespace matvlm::testing {
namespace {

MicroBatch read_batch(const std::string& path, const std::vector<bool>& no_image) {
  const TensorSource source = TensorSource::open(path);
  const auto shape = source.info("input_ids").shape;
  const auto ids = source.read<int32_t>("input_ids");
  const auto labels = source.read<int32_t>("labels");
  MicroBatch batch;
  if (source.has("images")) {
    batch.images = source.read_floats("images");
    batch.n_images = source.info("images").shape[0];
    batch.image_size = source.info("images").shape[2];
  }
  batch.rows.cu.push_back(0);
  for (int64_t b = 0; b < shape[0]; ++b) {
    for (int64_t i = 0; i < shape[1]; ++i) {
      const auto at = static_cast<size_t>(b * shape[1] + i);
      if (ids[at] == -1) continue;  // right padding
      batch.rows.ids.push_back(ids[at]);
      batch.rows.labels.push_back(labels[at]);
    }
    batch.rows.cu.push_back(static_cast<int64_t>(batch.rows.ids.size()));
    batch.rows.image_of_row.push_back(no_image[static_cast<size_t>(b)] ? -1 : b);
  }
  return batch;
}

void read_switches(GoldenCase& golden) {
  const Json settings = golden.json.at("case");
  const Json ssm = settings.at("ssm");
  for (int64_t i = 0; i < ssm.size(); ++i) golden.student.ssm_layers.push_back(ssm.at(i).as_int());
  golden.student.is_bias = settings.get("is_bias", false);
  golden.student.tune_connector = settings.get("tune", true);
  golden.temperature = settings.get("T", 1.0);
  const std::string at = settings.get("layer_at", "mixer");
  check(at == "mixer" || at == "block", golden.json.where(), ": layer_at: found '", at, "', expected mixer or block");
  golden.layer_at = at == "block" ? LayerLossAt::block : LayerLossAt::mixer;
  const Json optimizer = golden.json.at("optimizer");
  golden.optimizer.lr = optimizer.at("lr").as_double();
  golden.optimizer.beta1 = optimizer.at("betas").at(0).as_double();
  golden.optimizer.beta2 = optimizer.at("betas").at(1).as_double();
  golden.optimizer.eps = optimizer.at("eps").as_double();
  golden.optimizer.weight_decay = optimizer.at("weight_decay").as_double();
  golden.optimizer.clip = optimizer.at("max_grad_norm").as_double();
  const Json lengths = golden.json.at("valid_lengths");
  for (int64_t i = 0; i < lengths.size(); ++i) golden.valid_lengths.push_back(lengths.at(i).as_int());
  golden.longest = *std::max_element(golden.valid_lengths.begin(), golden.valid_lengths.end());
}

}  // namespace

std::vector<std::string> golden_dirs() {
  const char* chosen = std::getenv("MATVLM_GOLDEN");
  const std::string root = chosen != nullptr ? chosen : std::string(MATVLM_SOURCE_DIR) + "/tests/golden";
  std::vector<std::string> dirs;
  check(std::filesystem::is_directory(root), root, ": no such directory of golden cases");
  if (std::filesystem::exists(root + "/case.json")) dirs.push_back(root);
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    if (std::filesystem::exists(entry.path() / "case.json")) dirs.push_back(entry.path().string());
  }
  std::sort(dirs.begin(), dirs.end());
  check(!dirs.empty(), root, ": found no directory with a case.json");
  return dirs;
}

std::unique_ptr<GoldenCase> load_golden(Context& ctx, const std::string& dir, DType dtype) {
  auto golden = std::make_unique<GoldenCase>(dir);
  read_switches(*golden);
  const Json settings = golden->json.at("case");
  const Json vision = golden->json.has("vision") ? golden->json.at("vision") : Json();
  golden->teacher_config = model_config_from_json(golden->json.at("llm"), vision, settings.get("select", "cls_patch"));
  golden->student_config = student_config(golden->teacher_config, golden->student);
  const TensorSource teacher = TensorSource::open(dir + "/teacher.safetensors");
  golden->teacher_weights = load_frozen_weights(ctx, golden->teacher_config, teacher, dtype);
  const TensorSource start = TensorSource::open(dir + "/student_trainable.safetensors");
  // The file also holds a connector where it is not trained; the teacher's is used then.
  golden->student_weights = make_weights(
      ctx, golden->student_config, dtype, [&](const std::string& name) { return is_trained(golden->student, name); },
      values_from(start), &golden->teacher_weights);
  golden->teacher_model = make_vlm(golden->teacher_weights, golden->teacher_config);
  golden->student_model = make_vlm(golden->student_weights, golden->student_config);
  std::vector<bool> no_image(golden->valid_lengths.size(), false);
  if (settings.has("noimg")) {
    const Json rows = settings.at("noimg");
    for (int64_t i = 0; i < rows.size(); ++i) no_image[static_cast<size_t>(rows.at(i).as_int())] = true;
  }
  golden->batch = read_batch(dir + "/batch.safetensors", no_image);
  return golden;
}

Models GoldenCase::models(DType dtype) const {
  Models m;
  m.teacher = &teacher_model;
  m.student = &student_model;
  m.dtype = dtype;
  return m;
}

LossConfig GoldenCase::loss() const {
  LossConfig config;
  config.temperature = temperature;
  config.layer_at = layer_at;
  return config;
}

std::vector<float> valid_rows(const GoldenCase& golden, const std::string& name) {
  const std::vector<float> all = golden.expected.read_floats(name);
  const auto shape = golden.expected.info(name).shape;
  const auto width = static_cast<size_t>(shape[2]);
  std::vector<float> out;
  for (int64_t b = 0; b < shape[0]; ++b) {
    const auto begin = static_cast<size_t>(b * shape[1]) * width;
    const auto end = begin + static_cast<size_t>(golden.valid_lengths[static_cast<size_t>(b)]) * width;
    out.insert(out.end(), all.begin() + static_cast<std::ptrdiff_t>(begin),
               all.begin() + static_cast<std::ptrdiff_t>(end));
  }
  return out;
}

}  // namespace matvlm::testing
