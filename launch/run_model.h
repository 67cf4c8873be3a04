// Where the tensors of a run's model come from: a checkpoint, the teacher's files, and for the start of a student an
// earlier one (student.init_from, student.previous).
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "launch/config.h"
#include "layers/weights.h"

namespace matvlm {

// Which weights of a run to take.
enum class ExportFrom { best, latest, start, update };

struct RunTensors {
  std::string folder;  // of the teacher (distill), or of the model itself; empty for a taught model
  ModelConfig config;
  std::string tokenizer_file;
  std::optional<TensorSource> frozen;  // the folder's files; none for a taught model
  ValueSource values;                  // of every tensor of the model, empty for others
};

// `path`: a run, or a folder (or GGUF file) with a model, of which `from` then says nothing.
RunTensors run_tensors(const std::string& path, ExportFrom from, int64_t update);

// Directory of the checkpoint that `from` names; Error when there is none.
std::string checkpoint_directory(const std::string& run, ExportFrom from, int64_t update);

// The student that a run starts from, where its config names one.
struct EarlierStudent {
  TensorSource source;
  std::function<bool(const std::string&)> restored;  // the tensors that must come from it, of those that are trained
};

// student.init_from: all that the student trains; the Mamba layers of both must be the same ones. student.previous: the
// mixers of the earlier student's Mamba layers, which must be some of this one's, and whatever is trained besides the
// mixers. None without either. Error for Mamba layers or switches (bias, taps) that do not fit. `student` is the config
// of the student to be made.
std::optional<EarlierStudent> earlier_student(const StudentSection& section, const ModelConfig& student);

}  // namespace matvlm
