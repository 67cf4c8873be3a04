#include "distill/trainer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <variant>

#include "autograd/ops/adamw.h"
#include "core/aside.h"

namespace matvlm {
namespace {

void check_finite(const char* what, double value, int64_t number) {
  check(std::isfinite(value), "update ", number, ": ", what, " is ", value,
        "; nothing was changed by this update, the last checkpoint is as it was");
}

bool has_dnn_attention(const Vlm* model) {
  if (model == nullptr) return false;
  const auto any = [](const std::vector<Block>& blocks) {
    return std::any_of(blocks.begin(), blocks.end(), [](const Block& block) {
      const auto* attention = std::get_if<AttentionMixer>(&block.mixer);
      return attention != nullptr && attention->dnn != nullptr;
    });
  };
  return any(model->text.blocks) || (model->vision && any(model->vision->blocks));
}

// Why steps are not to be recorded; empty where they may be.
std::string graph_obstacle(const Trainer::Setup& setup) {
  // NCCL's calls could be recorded as well, but nobody has looked at that yet.
  if (setup.host->size() > 1) return cat(setup.host->size(), " ranks");
  if (setup.models.timer != nullptr) return "a step that is timed part by part";
  if (has_dnn_attention(setup.models.teacher) || has_dnn_attention(setup.models.student)) {
    return "attention.backend cudnn";
  }
  return setup.recorder ? "" : recording_obstacle(*setup.ctx);
}

// Launching a step takes the host a few milliseconds, which hide behind the device's work where that takes longer. Then
// a graph gains nothing: on an H200 the full-size step, 80 TFLOP, took 0.4 to 2 % longer as one. About 6 operations a
// weight of the language model and token; 10 TFLOP are 15 ms and more.
int64_t most_recorded_tokens(const Models& models) {
  constexpr double kMostFlops = 1e13;
  const TextConfig& c = models.student->text.config;
  const int64_t matrices = 4 * c.hidden * c.heads * c.head_dim + 3 * c.hidden * c.mlp;
  return static_cast<int64_t>(kMostFlops / 6 / static_cast<double>(std::max<int64_t>(c.layers * matrices, 1)));
}

}  // namespace

Trainer::Trainer(Setup setup)
    : setup_(std::move(setup)),
      sync_(*setup_.ctx, *setup_.device, *setup_.store, setup_.bucket_bytes),
      graphs_(*setup_.ctx, *setup_.store, setup_.cuda_graph, graph_obstacle(setup_),
              most_recorded_tokens(setup_.models), setup_.recorder ? setup_.recorder : WorkRecorder(record_work)) {}

Trainer::CountedBatch Trainer::count_batch(const MicroBatch& batch, std::array<int64_t, 5>& sums) {
  CountedBatch out;
  out.rows = splice_for(setup_.models, batch);
  const UpdateCounts c = count_rows(out.rows, setup_.loss.positions);
  sums[0] += c.samples;
  sums[1] += c.positions;
  sums[2] += c.answers;
  sums[3] += out.rows.cu.back();
  out.batch.n_images = batch.n_images;
  out.batch.image_size = batch.image_size;
  enter_part(setup_.models.timer, StepPart::upload);
  out.batch.device_images = upload_images(*setup_.ctx, setup_.models, batch);
  enter_part(setup_.models.timer, StepPart::host);
  return out;
}

void Trainer::make_steps(const std::vector<CountedBatch>& batches, bool backward, Prepared& out) {
  if (out.failed_ranks > 0 || out.counts.samples == 0) return;
  enter_part(setup_.models.timer, StepPart::upload);
  for (const CountedBatch& b : batches) {
    if (b.rows.cu.size() < 2) continue;
    out.steps.push_back(
        make_step_inputs(*setup_.ctx, setup_.models, setup_.loss, b.batch, b.rows, out.counts, backward));
  }
  enter_part(setup_.models.timer, StepPart::host);
}

void Trainer::count_over_ranks(Prepared& out, std::array<int64_t, 5>& sums) {
  sums[4] = out.error ? 1 : 0;
  setup_.host->all_reduce_sum(std::span<int64_t>(sums));
  out.counts = {sums[0], sums[1], sums[2]};
  out.tokens = sums[3];
  out.failed_ranks = sums[4];
}

void Trainer::check_prepared(const Prepared& prepared, const std::string& what) {
  if (prepared.error) std::rethrow_exception(prepared.error);
  if (prepared.failed_ranks > 0) {
    // The rank that has the error tells of it and ends the run; this one must not be faster.
    setup_.host->barrier();
    fail(what, ": ", prepared.failed_ranks, " of the other ranks could not prepare it");
  }
  check(prepared.counts.samples > 0, what, ": no samples on any rank");
}

Trainer::Prepared Trainer::prepare(const Fetch& fetch) { return prepare(fetch, true); }

Trainer::Prepared Trainer::prepare(const Fetch& fetch, bool backward) {
  Prepared out;
  std::array<int64_t, 5> sums{};
  std::vector<CountedBatch> batches;
  try {
    for (const MicroBatch& batch : fetch()) batches.push_back(count_batch(batch, sums));
  } catch (...) {
    out.error = std::current_exception();
  }
  count_over_ranks(out, sums);
  try {
    make_steps(batches, backward, out);
  } catch (...) {
    out.error = std::current_exception();
  }
  return out;
}

LossTerms Trainer::sum_over_ranks(const LossTerms& own, size_t layers) {
  std::vector<double> values = {own.total, own.logit,    own.layer,   own.ce,
                                own.agree, own.agree_of, own.correct, own.correct_of};
  // A rank without rows has no entries of its own; the size must be the same everywhere.
  for (size_t i = 0; i < layers; ++i) values.push_back(i < own.layer_each.size() ? own.layer_each[i] : 0.0);
  setup_.host->all_reduce_sum(std::span<double>(values));
  LossTerms all;
  all.total = values[0];
  all.logit = values[1];
  all.layer = values[2];
  all.ce = values[3];
  all.agree = values[4];
  all.agree_of = values[5];
  all.correct = values[6];
  all.correct_of = values[7];
  all.layer_each.assign(values.begin() + 8, values.end());
  return all;
}

LossTerms Trainer::own_terms(const std::vector<Tensor>& terms, std::span<const double> values) const {
  LossTerms own;
  for (const Tensor& joined : terms) {
    const auto n = static_cast<size_t>(joined.numel());
    own.add(loss_terms(setup_.models, setup_.loss, values.first(n)));
    values = values.subspan(n);
  }
  return own;
}

void Trainer::begin(const Prepared& prepared, int64_t number, int64_t samples_before) {
  Context& ctx = *setup_.ctx;
  check(!running_, "update ", number, " begins before update ", running_ ? running_->number : 0, " is finished");
  check_prepared(prepared, cat("update ", number));
  Running running;
  running.number = number;
  running.lr = setup_.optimizer.lr * schedule_factor(setup_.schedule, samples_before, prepared.counts.samples);
  running.counts = prepared.counts;
  running.tokens = prepared.tokens;

  sync_.begin();
  if (prepared.steps.empty()) {
    setup_.store->begin_update(ctx);
    ahead_.reset();
  }
  for (size_t i = 0; i < prepared.steps.size(); ++i) {
    const bool first = i == 0;
    // One rank has nobody to send gradients to while backward runs; finish() settles what is left of them.
    const bool hooked = i + 1 == prepared.steps.size() && !graphs_.active();
    running.terms.push_back(graphs_.run(prepared.steps[i], first, [this, first, hooked](const StepInputs& inputs) {
      return gradient_step(inputs, first, hooked ? sync_.hook() : Graph::ParameterHook());
    }));
  }
  running_ = std::move(running);
}

Tensor Trainer::gradient_step(const StepInputs& inputs, bool first, const Graph::ParameterHook& hook) {
  Context& ctx = *setup_.ctx;
  if (first) {
    enter_part(setup_.models.timer, StepPart::optimizer);
    setup_.store->begin_update(ctx);
    enter_part(setup_.models.timer, StepPart::host);
  }
  std::optional<TeacherOutput> teacher;
  if (first && ahead_ && ahead_->inputs.values.raw() == inputs.values.raw()) teacher = std::move(ahead_->teacher);
  if (first) ahead_.reset();
  return join_terms(ctx, queue_step(ctx, setup_.models, setup_.loss, inputs, true, hook, nullptr, std::move(teacher)));
}

void Trainer::end_gradients() {
  if (!running_->results.empty()) return;
  Context& ctx = *setup_.ctx;
  StepTimer* const timer = setup_.models.timer;
  std::optional<Aside> aside;
  if (timer == nullptr) aside.emplace(ctx, Aside::Behind::all);
  enter_part(timer, StepPart::comm);
  sync_.finish();
  enter_part(timer, StepPart::optimizer);
  running_->results = running_->terms;
  running_->results.push_back(grad_squares(ctx, *setup_.store));
}

void Trainer::look_ahead(const Prepared& next) {
  check(running_.has_value(), "[trainer] look_ahead() without begin()");
  const Models& models = setup_.models;
  const bool can = !next.error && next.failed_ranks == 0 && !next.steps.empty() && models.teacher != nullptr;
  if (!can || models.timer != nullptr || graphs_.may_record(next.steps.front().tokens())) return;
  // Before the teacher's pass is queued, which these are not to wait for.
  end_gradients();
  const StepInputs& inputs = next.steps.front();
  ahead_ = {inputs, graphs_.run_part([&] { return queue_teacher(*setup_.ctx, models, setup_.loss, inputs); })};
}

UpdateReport Trainer::finish() {
  Context& ctx = *setup_.ctx;
  check(running_.has_value(), "[trainer] finish() without begin()");
  end_gradients();
  const Running running = std::move(*running_);
  running_.reset();
  StepTimer* const timer = setup_.models.timer;
  std::optional<Aside> aside;
  if (timer == nullptr) aside.emplace(ctx, Aside::Behind::aside);
  // The one place where the host waits for the device.
  const std::vector<double> values = read_together(ctx, running.results);
  enter_part(timer, StepPart::host);

  UpdateReport report;
  report.counts = running.counts;
  report.tokens = running.tokens;
  report.lr = running.lr;
  report.comm_wait = sync_.take_wait_seconds();
  report.terms =
      sum_over_ranks(own_terms(running.terms, values), setup_.models.student->config.mamba.ssm_layers.size());
  report.grad_norm = std::sqrt(values.back());
  check_finite("the logit loss", report.terms.logit, running.number);
  check_finite("the layer loss", report.terms.layer, running.number);
  check_finite("the label loss", report.terms.ce, running.number);
  check_finite("the gradient norm", report.grad_norm, running.number);
  enter_part(timer, StepPart::optimizer);
  apply_update(ctx, *setup_.store, setup_.optimizer, report.lr, running.number, report.grad_norm);
  enter_part(timer, StepPart::host);
  aside.reset();
  ctx.join_aside();
  return report;
}

UpdateReport Trainer::update(const std::vector<MicroBatch>& batches, int64_t number, int64_t samples_before) {
  enter_part(setup_.models.timer, StepPart::host);
  begin(prepare([&] { return batches; }), number, samples_before);
  return finish();
}

Trainer::Evaluation Trainer::evaluate(const std::vector<MicroBatch>& batches) {
  const Prepared prepared = prepare([&] { return batches; }, false);
  check_prepared(prepared, "evaluation");
  std::vector<Tensor> terms;
  for (const StepInputs& inputs : prepared.steps) {
    terms.push_back(graphs_.run_plain(inputs, [this](const StepInputs& in) {
      return join_terms(*setup_.ctx, queue_step(*setup_.ctx, setup_.models, setup_.loss, in, false));
    }));
  }
  const LossTerms own = own_terms(terms, read_together(*setup_.ctx, terms));
  return {sum_over_ranks(own, setup_.models.student->config.mamba.ssm_layers.size()), prepared.counts};
}

}  // namespace matvlm
