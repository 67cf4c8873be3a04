// Golden steps: a directory with case.json and four safetensors files becomes models, a batch and expected numbers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/safetensors.h"
#include "distill/step.h"
#include "distill/student.h"

namespace matvlm::testing {

struct GoldenCase {
  explicit GoldenCase(const std::string& path)
      : dir(path),
        json(Json::read_file(path + "/case.json")),
        expected(TensorSource::open(path + "/expected.safetensors")) {}

  std::string dir;
  Json json;
  TensorSource expected;
  ModelConfig teacher_config, student_config;
  StudentConfig student;
  ModelWeights teacher_weights, student_weights;
  Vlm teacher_model, student_model;
  MicroBatch batch;
  std::vector<int64_t> valid_lengths;
  int64_t longest = 0;  // padded length of the expected tensors
  double temperature = 1.0;
  LayerLossAt layer_at = LayerLossAt::mixer;
  OptimizerConfig optimizer;
  Models models(DType dtype) const;
  LossConfig loss() const;  // the paper's: KL + layer l2, `published`
};

std::unique_ptr<GoldenCase> load_golden(Context& ctx, const std::string& dir, DType dtype);

// Every directory with a case.json under $MATVLM_GOLDEN, or under tests/golden; sorted. Error when there is none.
std::vector<std::string> golden_dirs();

// Rows of an expected [B, L, C] tensor at valid positions, concatenated as a packed row is.
std::vector<float> valid_rows(const GoldenCase& golden, const std::string& name);

}  // namespace matvlm::testing
