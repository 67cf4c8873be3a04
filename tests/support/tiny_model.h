// A teacher and a student small enough to run hundreds of updates in a test, and micro-batches for them. All values are
// functions of names and seeds, so every rank of a test makes the same models without talking to the others.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "distill/step.h"
#include "distill/student.h"
#include "distill/trainer.h"

namespace matvlm::testing {

// H = 4 heads of width 8 over K key/value heads, 4 layers; a vision tower of 2x2 patches of which one block runs.
ModelConfig tiny_config(int64_t kv_heads = 2);

// Three layers with heads of 80 as in Phi-2 and of 72 as in SigLIP, so that the kernels are those of training.
ModelConfig wide_heads_config();

// Random values of every tensor of `config`: norm weights around 1, everything else, biases included, around 0.
ValueSource tiny_values(const ModelConfig& config, uint64_t seed = 3);

struct TinyModels {
  ModelConfig teacher_config, student_config;
  ModelWeights teacher_weights, student_weights;
  Vlm teacher, student;
  ~TinyModels();

  Models models() const;
  ParameterStore& store() const { return student_weights.store(); }
};
// Attention-initialised student of a tiny teacher.
std::unique_ptr<TinyModels> make_tiny_models(Context& ctx, const StudentConfig& student, int64_t kv_heads = 2);

// A Llama of the same sizes without a vision tower: sequential residuals, RMSNorm, SwiGLU, whole heads rotated, tied
// head.
ModelConfig tiny_llama_config(int64_t kv_heads = 2);
std::unique_ptr<TinyModels> make_tiny_llama(Context& ctx, const StudentConfig& student, int64_t kv_heads = 2);

// Layers 0 and 2 turned into Mamba layers, connector trained.
StudentConfig tiny_student();

// Sample `index` of an endless made-up data set: an image and 5 to 11 ids of which the last 2 to 5 are labels; every
// third sample is text only.
struct TinySample {
  std::vector<int32_t> ids, labels;
  std::vector<float> image;  // empty: text only
};
TinySample tiny_sample(int64_t index);
MicroBatch tiny_batch(const std::vector<TinySample>& samples);
MicroBatch tiny_batch(int64_t first, int64_t count);  // samples first ... first + count - 1

Trainer::Setup tiny_setup(Context& ctx, Comm& host, Comm& device, const TinyModels& models, const LossConfig& loss);

// float32 masters of all parameters, in the order of the store.
std::vector<std::vector<float>> master_values(Context& ctx, const ParameterStore& store);
std::vector<std::vector<float>> gradients(Context& ctx, const ParameterStore& store);

// Begins an update with every gradient fresh and NaN: what an op adds to instead of writing it, or nobody settles,
// shows.
void begin_poisoned(Context& ctx, const ParameterStore& store);
void settle_all(Context& ctx, const ParameterStore& store);

}  // namespace matvlm::testing
