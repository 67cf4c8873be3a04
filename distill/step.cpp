#include "distill/step.h"

#include <algorithm>
#include <utility>

namespace matvlm {
namespace {

// What the layer loss reads of a layer: only the mixer's input and output, unless the comparison is made further down.
bool compares_block(const LossConfig& loss, const Vlm& student, int64_t layer) {
  const bool last = layer + 1 == student.text.config.layers;
  return last || (!student.text.config.block.parallel && loss.layer_at == LayerLossAt::block);
}

}  // namespace

std::optional<TeacherOutput> queue_teacher(Context& ctx, const Models& models, const LossConfig& loss,
                                           const StepInputs& inputs, StepTrace* trace) {
  if (models.teacher == nullptr) return {};
  const Vlm& teacher = *models.teacher;
  Graph g(ctx, false);
  TeacherOutput out;
  Var image_tokens;
  if (inputs.n_images > 0) {
    enter_part(models.timer, StepPart::vision);
    out.features = run_vision(g, *teacher.vision, inputs.images, inputs.vision).value();
    image_tokens = run_connector(g, teacher.connector, g.constant(out.features));
    out.image_tokens = image_tokens.value();
  }
  if (loss.layer != LayerLossKind::none) {
    out.trace.layers = models.student->config.mamba.ssm_layers;
    for (const int64_t layer : out.trace.layers) {
      out.trace.keep_inputs = out.trace.keep_inputs || compares_block(loss, *models.student, layer);
    }
  }
  if (trace != nullptr) out.trace.hidden = &trace->teacher_hidden;
  enter_part(models.timer, StepPart::teacher);
  const Var h = run_embedding(g, teacher.text, image_tokens, inputs.splice);
  out.final_hidden = run_text(g, teacher.text, h, inputs.pass, &out.trace).value();
  return out;
}

namespace {

// The student's image tokens: shared with the teacher as far as nothing in front of them is trained.
Var student_image_tokens(Graph& g, const Models& models, const StepInputs& inputs, const TeacherOutput* teacher) {
  if (inputs.n_images == 0) return {};
  const Vlm& student = *models.student;
  Var features;
  if (models.vision_trained || teacher == nullptr) {
    features = run_vision(g, *student.vision, inputs.images, inputs.vision);
  } else {
    features = g.constant(teacher->features);
  }
  const bool shared = teacher != nullptr && !models.vision_trained && !trains_connector(student);
  if (shared) return g.constant(teacher->image_tokens);
  return run_connector(g, student.connector, features);
}

// The student's layer on the teacher's input of that layer: the loss term. MLP and residual of a parallel block are the
// same on both sides, so only the mixer runs; the last layer is compared behind the final norm, as the published code
// does.
Tensor layer_term(Graph& g, const Models& models, const LossConfig& loss, const StepInputs& inputs,
                  const TeacherOutput& teacher, size_t i) {
  const Vlm& student = *models.student;
  const int64_t layer = teacher.trace.layers[i];
  const Block& block = student.text.blocks[static_cast<size_t>(layer)];
  const Var normed = g.constant(teacher.trace.blocks[i].normed);
  Var found = run_mixer(g, block, normed, inputs.pass, layer);
  Tensor expected = teacher.trace.blocks[i].mixer;
  if (compares_block(loss, student, layer)) {
    found = finish_block(g, block, g.constant(teacher.trace.inputs[i]), normed, found);
    expected = teacher.trace.outputs[i];
    if (layer + 1 == student.text.config.layers) {
      found = run_norm(g, student.text.final_norm, found);
      expected = teacher.final_hidden;
    }
  }
  const LayerLossResult result = layer_loss(g, inputs.layer_spec, found, expected, inputs.layer_rows, inputs.samples);
  if (g.recording()) g.backward({result.loss});
  return result.term;
}

// All layer losses with their backward passes, each in a graph of its own before the student's graph exists: a layer's
// activations and what the teacher stored for it are free before the next one runs. No parameter hook here: the
// student's own pass uses every one of these parameters again, behind these.
std::vector<Tensor> run_layer_terms(Context& ctx, const Models& models, const LossConfig& loss,
                                    const StepInputs& inputs, TeacherOutput& teacher, bool backward) {
  enter_part(models.timer, StepPart::layer_pass);
  std::vector<Tensor> terms;
  for (size_t i = 0; i < teacher.trace.layers.size(); ++i) {
    Graph g(ctx, backward);
    terms.push_back(layer_term(g, models, loss, inputs, teacher, i));
    teacher.trace.blocks[i] = {};
    if (teacher.trace.keep_inputs) teacher.trace.inputs[i] = teacher.trace.outputs[i] = Tensor();
  }
  return terms;
}

HeadLossResult head_terms(Graph& g, const Models& models, const StepInputs& inputs, const TeacherOutput* teacher,
                          const Var& hidden) {
  HeadLossInputs in;
  in.student_hidden = hidden;
  in.student_weight = models.student->text.head.weight;
  in.student_bias = models.student->text.head.bias;
  if (inputs.head_spec.kind != LogitKind::none) {
    in.teacher_hidden = teacher->final_hidden;
    in.teacher_weight = models.teacher->text.head.weight.value;
    in.teacher_bias = models.teacher->text.head.bias.value;
  }
  in.rows = inputs.head_rows;
  return head_loss(g, inputs.head_spec, in);
}

}  // namespace

void LossTerms::add(const LossTerms& other) {
  total += other.total;
  logit += other.logit;
  layer += other.layer;
  ce += other.ce;
  agree += other.agree;
  agree_of += other.agree_of;
  correct += other.correct;
  correct_of += other.correct_of;
  layer_each.resize(std::max(layer_each.size(), other.layer_each.size()), 0.0);
  for (size_t i = 0; i < other.layer_each.size(); ++i) layer_each[i] += other.layer_each[i];
}

QueuedTerms queue_step(Context& ctx, const Models& models, const LossConfig& loss, const StepInputs& inputs,
                       bool backward, const Graph::ParameterHook& hook, StepTrace* trace,
                       std::optional<TeacherOutput> teacher) {
  if (!teacher) teacher = queue_teacher(ctx, models, loss, inputs, trace);
  std::vector<Tensor> layer_values;
  if (teacher) layer_values = run_layer_terms(ctx, models, loss, inputs, *teacher, backward);

  enter_part(models.timer, StepPart::student);
  Pass pass = inputs.pass;
  pass.recompute = models.recompute;
  Graph g(ctx, backward);
  g.set_parameter_hook(hook);
  const TeacherOutput* t = teacher ? &*teacher : nullptr;
  const Var image_tokens = student_image_tokens(g, models, inputs, t);
  TextTrace student_trace;
  if (trace != nullptr) {
    student_trace.hidden = &trace->student_hidden;
    if (t != nullptr) trace->vision_features = t->features;
  }
  const Var h = run_embedding(g, models.student->text, image_tokens, inputs.splice);
  Var final_hidden = run_text(g, models.student->text, h, pass, &student_trace);
  if (trace != nullptr) {
    trace->student_final = final_hidden.value();
    if (t != nullptr) trace->teacher_final = t->final_hidden;
  }

  enter_part(models.timer, StepPart::head_loss);
  const HeadLossResult head = head_terms(g, models, inputs, t, final_hidden);
  // What backward needs of the head is the gradient of the hidden states, which the head has already computed.
  final_hidden = Var();
  if (teacher) teacher->final_hidden = Tensor();
  enter_part(models.timer, StepPart::backward);
  if (backward) g.backward({head.loss});
  enter_part(models.timer, StepPart::host);

  QueuedTerms terms = {head.logit_term, head.ce_term, head.counts};
  terms.insert(terms.end(), layer_values.begin(), layer_values.end());
  return terms;
}

QueuedTerms queue_micro_batch(Context& ctx, const Models& models, const LossConfig& loss, const MicroBatch& batch,
                              const SplicedRows& rows, const UpdateCounts& counts, bool backward,
                              const Graph::ParameterHook& hook, StepTrace* trace) {
  enter_part(models.timer, StepPart::upload);
  const StepInputs inputs = make_step_inputs(ctx, models, loss, batch, rows, counts, backward);
  return queue_step(ctx, models, loss, inputs, backward, hook, trace);
}

Tensor join_terms(Context& ctx, const std::vector<Tensor>& vectors) {
  int64_t n = 0;
  for (const Tensor& v : vectors) n += v.numel();
  Tensor all = Tensor::empty(ctx, {n}, DType::f64);
  n = 0;
  for (const Tensor& v : vectors) {
    all.slice_rows(n, n + v.numel()).copy_from(ctx, v);
    n += v.numel();
  }
  return all;
}

std::vector<double> read_together(Context& ctx, const std::vector<Tensor>& vectors) {
  return join_terms(ctx, vectors).to_vector<double>(ctx);
}

LossTerms loss_terms(const Models& models, const LossConfig& loss, std::span<const double> values) {
  constexpr size_t kCounts = 2, kLayers = kCounts + kHeadCounts;
  check(values.size() >= kLayers, "[step] found ", values.size(), " values of loss terms, expected ", kLayers);
  LossTerms terms;
  terms.logit = values[0];
  terms.ce = values[1];
  terms.agree = values[kCounts + kCountAgreement];
  terms.agree_of = values[kCounts + kCountLogitRows];
  terms.correct = values[kCounts + kCountCorrect];
  terms.correct_of = values[kCounts + kCountLabelRows];
  terms.layer_each.assign(values.begin() + kLayers, values.end());
  for (const double layer : terms.layer_each) terms.layer += layer;
  const bool has_logit = models.teacher != nullptr && loss.logit != LogitLossKind::none;
  terms.total =
      (has_logit ? loss.logit_weight * terms.logit : 0.0) + loss.layer_weight * terms.layer + loss.ce_weight * terms.ce;
  return terms;
}

LossTerms run_micro_batch(Context& ctx, const Models& models, const LossConfig& loss, const MicroBatch& batch,
                          const SplicedRows& rows, const UpdateCounts& counts, bool backward,
                          const Graph::ParameterHook& hook, StepTrace* trace) {
  const QueuedTerms terms = queue_micro_batch(ctx, models, loss, batch, rows, counts, backward, hook, trace);
  return loss_terms(models, loss, read_together(ctx, terms));
}

}  // namespace matvlm
