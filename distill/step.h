// One micro-batch: teacher forward without a graph, mixers on the teacher's inputs with their losses and backward
// passes, then student forward, logit loss, backward.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "distill/config.h"
#include "distill/losses.h"
#include "distill/step_inputs.h"

namespace matvlm {

// Loss terms of a micro-batch or an update, each without its weight; sums over ranks and micro-batches give the
// update's.
struct LossTerms {
  double total = 0;
  double logit = 0;
  double layer = 0;
  double ce = 0;
  std::vector<double> layer_each;  // by Mamba layer
  double agree = 0;                // positions where student's and teacher's arg max agree
  double agree_of = 0;
  double correct = 0;  // answer tokens where the student's arg max is the label
  double correct_of = 0;
  void add(const LossTerms& other);
};

// Hidden states that tests compare with golden ones.
struct StepTrace {
  Tensor vision_features;              // [n * patches, width]
  std::vector<Tensor> teacher_hidden;  // per layer boundary, as `hidden` of TextTrace
  std::vector<Tensor> student_hidden;
  Tensor teacher_final, student_final;  // after the final norm
};

// What a step computes without any trained parameter.
struct TeacherOutput {
  Tensor features;      // vision features, undefined without images
  Tensor image_tokens;  // connector's output
  TextTrace trace;      // of the student's Mamba layers
  Tensor final_hidden;  // after the final norm
};

// The teacher's pass, which may be queued long before the step that takes its result. Nothing without a teacher.
std::optional<TeacherOutput> queue_teacher(Context& ctx, const Models& models, const LossConfig& loss,
                                           const StepInputs& inputs, StepTrace* trace = nullptr);

// Loss terms on the device: f64 vectors for read_together() and loss_terms().
using QueuedTerms = std::vector<Tensor>;

// Forward, and with `backward` the gradients, which are added into the parameters. hook: see
// Graph::set_parameter_hook. On a GPU the work is only queued: nothing here waits for it or sends anything to it.
// teacher: of queue_teacher() for these inputs, where that has been called.
QueuedTerms queue_step(Context& ctx, const Models& models, const LossConfig& loss, const StepInputs& inputs,
                       bool backward, const Graph::ParameterHook& hook = {}, StepTrace* trace = nullptr,
                       std::optional<TeacherOutput> teacher = {});
// The same from a micro-batch on the host. `counts` are the update's.
QueuedTerms queue_micro_batch(Context& ctx, const Models& models, const LossConfig& loss, const MicroBatch& batch,
                              const SplicedRows& rows, const UpdateCounts& counts, bool backward,
                              const Graph::ParameterHook& hook = {}, StepTrace* trace = nullptr);

// One vector of all of them, in their order.
Tensor join_terms(Context& ctx, const std::vector<Tensor>& vectors);
// The values of f64 vectors one after the other; the device is waited for once.
std::vector<double> read_together(Context& ctx, const std::vector<Tensor>& vectors);
// The terms from the values of QueuedTerms.
LossTerms loss_terms(const Models& models, const LossConfig& loss, std::span<const double> values);

// The same in one call, which waits for the result.
LossTerms run_micro_batch(Context& ctx, const Models& models, const LossConfig& loss, const MicroBatch& batch,
                          const SplicedRows& rows, const UpdateCounts& counts, bool backward,
                          const Graph::ParameterHook& hook = {}, StepTrace* trace = nullptr);

}  // namespace matvlm
