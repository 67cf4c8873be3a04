#include "launch/run_model.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "core/file.h"
#include "core/log.h"
#include "data/tokenizer.h"
#include "distill/student.h"
#include "launch/checkpoint.h"
#include "launch/model_folder.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;

ValueSource first_of(ValueSource first, ValueSource second) {
  return [first = std::move(first), second = std::move(second)](const std::string& name) {
    std::vector<float> values = first(name);
    return values.empty() ? second(name) : values;
  };
}

// Start values of a student, as a fresh run makes them.
ValueSource student_start(const ModelConfig& config, const StudentSection& section, const StudentConfig& student,
                          const ValueSource& teacher, uint64_t seed) {
  ValueSource fresh = [config, student, teacher, seed](const std::string& name) {
    for (const int64_t layer : config.mamba.ssm_layers) {
      for (const ModelTensor& t : mamba_tensors(config, layer)) {
        if (t.name != name) continue;
        const ValueSource* attention = student.init == MixerInit::attention ? &teacher : nullptr;
        return init_mamba_tensor(config, layer, t, attention, seed);
      }
    }
    return teacher(name);
  };
  const auto earlier = earlier_student(section, config);
  if (!earlier) return fresh;
  const ValueSource values = values_from(earlier->source);
  return first_of(
      [values, student, restored = earlier->restored](const std::string& name) {
        return is_trained(student, name) && restored(name) ? values(name) : std::vector<float>();
      },
      std::move(fresh));
}

std::string list_of(const std::vector<int64_t>& layers) {
  std::string text;
  for (const int64_t layer : layers) text += cat(text.empty() ? "" : ", ", layer);
  return "[" + text + "]";
}

// The Mamba layers of an earlier student; none where its folder does not say (a checkpoint's bare tensors).
std::optional<MambaConfig> mamba_config_of(const std::string& path) {
  if (!fs::exists(path + "/mamba_config.json")) return std::nullopt;
  return read_model_config(path).mamba;
}

void check_same_mixers(const std::string& key, const std::string& path, const MambaConfig& earlier,
                       const MambaConfig& student) {
  check(earlier.is_bias == student.is_bias, "key '", key, "': found mixers ", earlier.is_bias ? "with" : "without",
        " biases in ", path, ", expected them ", student.is_bias ? "with" : "without", " (student.is_bias)");
  check(earlier.conv_width == student.conv_width, "key '", key, "': found mixers of ", earlier.conv_width,
        " convolution taps in ", path, ", expected ", student.conv_width, " (student.conv_width)");
}

RunTensors folder_tensors(const std::string& path) {
  RunTensors out;
  out.folder = path;
  out.config = read_model_config(path);
  out.tokenizer_file = tokenizer_file_of(path);
  out.frozen = TensorSource::open(path);
  check_source(out.config, *out.frozen);
  out.values = values_from(*out.frozen);
  return out;
}

RunTensors start_tensors(const RunConfig& run) {
  RunTensors out;
  const auto seed = static_cast<uint64_t>(run.run.seed);
  if (run.kind == RunKind::distill) {
    out.folder = run.teacher.path;
    const ModelConfig teacher = read_model_config(out.folder);
    const StudentConfig student = resolved_student(run, teacher);
    out.config = student_config(teacher, student);
    out.config.max_length = run.data.max_length;
    out.tokenizer_file = tokenizer_file_of(out.folder);
    out.frozen = TensorSource::open(out.folder);
    check_source(teacher, *out.frozen);
    out.values = student_start(out.config, run.student, student, values_from(*out.frozen), seed);
    return out;
  }
  const Tokenizer tokenizer = Tokenizer::read_file(run.teach.tokenizer);
  out.config = taught_config(run.teach.model, tokenizer.vocab_size(), run.data.max_length, run.data.image_aspect);
  out.tokenizer_file = run.teach.tokenizer;
  out.values = [config = out.config, seed](const std::string& name) {
    for (const ModelTensor& t : model_tensors(config)) {
      if (t.name == name) return init_random_tensor(config, t, seed);
    }
    return std::vector<float>();
  };
  return out;
}

}  // namespace

RunTensors run_tensors(const std::string& path, ExportFrom from, int64_t update) {
  if (!fs::exists(path + "/config.yaml") && is_model_on_disk(path)) return folder_tensors(path);
  RunTensors out = start_tensors(load_config(path + "/config.yaml"));
  if (from == ExportFrom::start) return out;
  const std::string checkpoint = checkpoint_directory(path, from, update);
  read_checkpoint_state(checkpoint);  // verifies the files' hashes
  const TensorSource trained = TensorSource::open(checkpoint + "/model.safetensors");
  out.values = first_of(values_from(trained), out.values);
  return out;
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

std::optional<EarlierStudent> earlier_student(const StudentSection& section, const ModelConfig& student) {
  if (!section.init_from.empty()) {
    const std::optional<MambaConfig> mamba = mamba_config_of(section.init_from);
    if (mamba) {
      check(mamba->ssm_layers == student.mamba.ssm_layers, "key 'student.init_from': found the Mamba layers ",
            list_of(mamba->ssm_layers), " in ", section.init_from, ", expected ", list_of(student.mamba.ssm_layers));
      check_same_mixers("student.init_from", section.init_from, *mamba, student.mamba);
    }
    return EarlierStudent{TensorSource::open(section.init_from), [](const std::string&) { return true; }};
  }
  if (section.previous.empty()) return std::nullopt;
  const std::optional<MambaConfig> mamba = mamba_config_of(section.previous);
  check(mamba.has_value(), "key 'student.previous': found no mamba_config.json in ", section.previous,
        ", expected the folder of a student");
  check_same_mixers("student.previous", section.previous, *mamba, student.mamba);
  check(std::includes(student.mamba.ssm_layers.begin(), student.mamba.ssm_layers.end(), mamba->ssm_layers.begin(),
                      mamba->ssm_layers.end()),
        "key 'student.previous': found the Mamba layers ", list_of(mamba->ssm_layers), " in ", section.previous,
        ", expected some of ", list_of(student.mamba.ssm_layers));
  return EarlierStudent{TensorSource::open(section.previous), [earlier = *mamba, student](const std::string& name) {
                          for (const int64_t layer : student.mamba.ssm_layers) {
                            if (name.starts_with(text_layer_prefix(layer) + "mamba.")) return earlier.contains(layer);
                          }
                          return true;
                        }};
}

}  // namespace matvlm
