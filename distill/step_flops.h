// How many floating-point operations the mathematics of one update asks for, whatever the program does (recomputation
// and padding do not count). What a benchmark divides by its time.
#pragma once

#include "distill/config.h"
#include "layers/config.h"

namespace matvlm {

// Rows of one micro-batch.
struct StepRows {
  int64_t samples = 0;
  int64_t length = 0;  // positions of a sample
  int64_t images = 0;
};

// By part. With T = samples * length positions, matrices M of m x k elements and R rows each (T; in tower and connector
// images * patches):
//   forward of a matrix 2 R m k; gradient of its input the same; gradient of a trained matrix the same
//   attention forward 2 samples length^2 H P where causal, 4 images patches^2 D in the tower; backward twice that
//   SSD forward 4 T H P N (state and output), backward twice that
//   head 2 T D V for the teacher's logits, the student's and their gradient
// Left out: embeddings, norms, activations, optimizer.
struct StepFlops {
  double vision = 0;      // with the connector
  double teacher = 0;     // language model
  double layer_pass = 0;  // with its backward
  double student = 0;
  double head_loss = 0;
  double backward = 0;
  double total() const { return vision + teacher + student + head_loss + layer_pass + backward; }
};

// `config`: the student's. Input gradients end at the lowest layer that something trained lies below or in.
StepFlops step_flops(const ModelConfig& config, const StudentConfig& student, const LossConfig& loss,
                     const StepRows& rows);

}  // namespace matvlm
