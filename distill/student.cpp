#include "distill/student.h"

#include <algorithm>
#include <map>

namespace matvlm {

ModelConfig student_config(const ModelConfig& teacher, const StudentConfig& student) {
  check_ssm_layers(student.ssm_layers, teacher.text.layers);
  ModelConfig config = teacher;
  config.mamba.ssm_layers = student.ssm_layers;
  config.mamba.is_bias = student.is_bias;
  config.mamba.conv_width = student.conv_width;
  return config;
}

bool is_trained(const StudentConfig& student, const std::string& name) {
  if (name.find(".mamba.") != std::string::npos) return true;
  if (student.tune_connector && name.starts_with("connector.")) return true;
  return std::any_of(student.trainable.begin(), student.trainable.end(),
                     [&](const std::string& pattern) { return matches_pattern(name, pattern); });
}

void check_trainable_patterns(const StudentConfig& student, const ModelConfig& config) {
  const std::vector<ModelTensor> tensors = model_tensors(config);
  for (const std::string& pattern : student.trainable) {
    const bool used = std::any_of(tensors.begin(), tensors.end(),
                                  [&](const ModelTensor& t) { return matches_pattern(t.name, pattern); });
    check(used, "student.trainable: found '", pattern, "', which matches no tensor of the model");
  }
}

ModelWeights make_student_weights(Context& ctx, const ModelConfig& config, const StudentConfig& student,
                                  const ModelWeights& teacher, const ValueSource& teacher_values, DType dtype,
                                  uint64_t seed, Offload offload) {
  check_trainable_patterns(student, config);
  std::map<std::string, std::vector<float>> mixers;
  const ValueSource* attention = student.init == MixerInit::attention ? &teacher_values : nullptr;
  for (const int64_t layer : config.mamba.ssm_layers) {
    for (const ModelTensor& t : mamba_tensors(config, layer)) {
      mixers[t.name] = init_mamba_tensor(config, layer, t, attention, seed);
    }
  }
  const ValueSource values = [&](const std::string& name) {
    const auto mixer = mixers.find(name);
    return mixer != mixers.end() ? mixer->second : teacher_values(name);
  };
  return make_weights(
      ctx, config, dtype, [&](const std::string& name) { return is_trained(student, name); }, values, &teacher,
      offload);
}

}  // namespace matvlm
