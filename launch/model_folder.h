// Models on the disk in the Hugging Face layout: config.json, mamba_config.json, *.safetensors, tokenizer.json.
#pragma once

#include <memory>
#include <string>

#include "data/image.h"
#include "data/tokenizer.h"
#include "launch/config.h"
#include "layers/vlm.h"

namespace matvlm {

// A model that can be run. weights outlive vlm, which holds handles into them.
struct LoadedModel {
  ModelConfig config;
  ModelWeights weights;
  Vlm vlm;
  std::string tokenizer_file;
};

// Whether there is a model at `path`: a folder with config.json or TinyLLaVA's parts, or a GGUF file.
bool is_model_on_disk(const std::string& path);

// A model on the disk, all weights frozen in `dtype`, the matrices of its blocks in fp8 if wanted.
LoadedModel load_model_folder(Context& ctx, const std::string& dir, DType dtype, bool in_fp8 = false);

// A folder as above, or the directory of a run: then the student (or taught model) of its best checkpoint.
LoadedModel load_model(Context& ctx, const std::string& path, DType dtype);

// The file that Tokenizer::read_file takes for a model's folder: its tokenizer.json, or its GGUF file.
std::string tokenizer_file_of(const std::string& model);
Tokenizer load_tokenizer(const LoadedModel& model);
ImagePreprocess preprocess_of(const ModelConfig& config);

// The architecture that `teach` makes.
ModelConfig taught_config(const TeachModel& model, int64_t vocab, int64_t max_length, ImageAspect aspect);
// The student's sizes and switches for a teacher, ssm_layers resolved.
StudentConfig resolved_student(const RunConfig& config, const ModelConfig& teacher);

// Error that lists the tensors of `start` (student.init_from, student.previous) that the student does not train and
// whose values are not the teacher's: teacher and student hold those once, so they would be lost without a word. Where
// one of the two is stored as bf16 the other may be what it was rounded from.
void check_start_is_kept(const ModelConfig& student, const ParameterStore& trained, const std::string& start,
                         const std::string& teacher);

}  // namespace matvlm
