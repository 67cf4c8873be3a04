#include "distill/trainer.h"

#include <array>
#include <cmath>
#include <span>
#include <utility>

#include "autograd/ops/adamw.h"

namespace matvlm {
namespace {

void check_finite(const char* what, double value, int64_t number) {
  check(std::isfinite(value), "update ", number, ": ", what, " is ", value,
        "; nothing was changed by this update, the last checkpoint is as it was");
}

}  // namespace

Trainer::Trainer(Setup setup)
    : setup_(std::move(setup)), sync_(*setup_.ctx, *setup_.device, *setup_.store, setup_.bucket_bytes) {}

Trainer::Prepared Trainer::prepare(const std::vector<MicroBatch>& batches) {
  Prepared out;
  std::array<int64_t, 4> sums{};
  for (const MicroBatch& batch : batches) {
    out.rows.push_back(splice_for(setup_.models, batch));
    const UpdateCounts c = count_rows(out.rows.back(), setup_.loss.positions);
    sums[0] += c.samples;
    sums[1] += c.positions;
    sums[2] += c.answers;
    sums[3] += out.rows.back().cu.back();
  }
  setup_.host->all_reduce_sum(std::span<int64_t>(sums));
  out.counts = {sums[0], sums[1], sums[2]};
  out.tokens = sums[3];
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

UpdateReport Trainer::update(const std::vector<MicroBatch>& batches, int64_t number, int64_t samples_before) {
  Context& ctx = *setup_.ctx;
  StepTimer* const timer = setup_.models.timer;
  enter_part(timer, StepPart::host);
  const Prepared prepared = prepare(batches);
  check(prepared.counts.samples > 0, "update ", number, ": no samples on any rank");

  enter_part(timer, StepPart::optimizer);
  setup_.store->zero_grad(ctx);
  enter_part(timer, StepPart::host);
  LossTerms own;
  sync_.begin();
  for (size_t i = 0; i < batches.size(); ++i) {
    if (batches[i].rows.image_of_row.empty()) continue;
    const bool last = i + 1 == batches.size();
    own.add(run_micro_batch(ctx, setup_.models, setup_.loss, batches[i], prepared.rows[i], prepared.counts, true,
                            last ? sync_.hook() : Graph::ParameterHook()));
  }
  enter_part(timer, StepPart::comm);
  sync_.finish();
  enter_part(timer, StepPart::host);

  UpdateReport report;
  report.counts = prepared.counts;
  report.tokens = prepared.tokens;
  report.comm_wait = sync_.wait_seconds();
  report.terms = sum_over_ranks(own, setup_.models.student->config.mamba.ssm_layers.size());
  enter_part(timer, StepPart::optimizer);
  report.grad_norm = grad_norm(ctx, *setup_.store);
  check_finite("the logit loss", report.terms.logit, number);
  check_finite("the layer loss", report.terms.layer, number);
  check_finite("the label loss", report.terms.ce, number);
  check_finite("the gradient norm", report.grad_norm, number);
  report.lr = setup_.optimizer.lr * schedule_factor(setup_.schedule, samples_before, prepared.counts.samples);
  apply_update(ctx, *setup_.store, setup_.optimizer, report.lr, number, report.grad_norm);
  enter_part(timer, StepPart::host);
  return report;
}

Trainer::Evaluation Trainer::evaluate(const std::vector<MicroBatch>& batches) {
  const Prepared prepared = prepare(batches);
  check(prepared.counts.samples > 0, "evaluation: no samples on any rank");
  LossTerms own;
  for (size_t i = 0; i < batches.size(); ++i) {
    if (batches[i].rows.image_of_row.empty()) continue;
    own.add(
        run_micro_batch(*setup_.ctx, setup_.models, setup_.loss, batches[i], prepared.rows[i], prepared.counts, false));
  }
  return {sum_over_ranks(own, setup_.models.student->config.mamba.ssm_layers.size()), prepared.counts};
}

}  // namespace matvlm
