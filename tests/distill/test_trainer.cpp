// One update: what it reports, and NaN that stops it before it changes anything.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "core/error.h"
#include "tests/support/tiny_model.h"

namespace matvlm::testing {
namespace {

Context& ctx() {
  static const std::unique_ptr<Context> context = make_cpu_context(2);
  return *context;
}

// A NaN in `name` stops the update with `message` and leaves masters and moments as they were.
void expect_refused(const std::string& name, const LossConfig& loss, const std::string& message) {
  const auto models = make_tiny_models(ctx(), tiny_student());
  const auto comms = make_local_comms(1);
  Trainer trainer(tiny_setup(ctx(), *comms[0], *comms[0], *models, loss));
  trainer.update({tiny_batch(0, 2)}, 1, 0);
  const Parameter& p = *models->store().find(name);
  std::vector<float> values = p.master.to_floats(ctx());
  values[1] = std::nanf("");
  set_parameter(ctx(), p, values);
  const ParameterStore& store = models->store();
  const auto bits = [&](const Tensor& arena) {
    std::vector<uint32_t> out;
    for (const float v : arena.to_floats(ctx())) out.push_back(std::bit_cast<uint32_t>(v));
    return out;
  };
  const auto master = bits(store.master()), moment1 = bits(store.moment1()), moment2 = bits(store.moment2());
  try {
    trainer.update({tiny_batch(2, 2)}, 2, 2);
    ADD_FAILURE() << "no error for a NaN in " << name;
  } catch (const Error& error) {
    const std::string found = error.what();
    EXPECT_TRUE(found.starts_with(message + " is ")) << name << ": " << found;
    EXPECT_NE(found.find("nan"), std::string::npos) << found;
  }
  EXPECT_EQ(bits(store.master()), master) << name;
  EXPECT_EQ(bits(store.moment1()), moment1) << name;
  EXPECT_EQ(bits(store.moment2()), moment2) << name;
}

TEST(NotFinite, AnUpdateIsRefusedAndChangesNothing) {
  const std::string mixer = "language_model.model.layers.2.mamba.";
  expect_refused(mixer + "in_proj.weight", LossConfig(), "update 2: the logit loss");
  // The recurrence takes a decay that is no number as 1, so this one shows in its gradient only.
  expect_refused(mixer + "A_log", LossConfig(), "update 2: the gradient norm");
  expect_refused("connector._connector.0.bias", LossConfig(), "update 2: the logit loss");
  LossConfig layer_only;
  layer_only.logit = LogitLossKind::none;
  layer_only.ce_weight = 0;
  expect_refused(mixer + "out_proj.weight", layer_only, "update 2: the layer loss");
  LossConfig labels;
  labels.logit = LogitLossKind::none;
  labels.layer = LayerLossKind::none;
  labels.ce_weight = 1;
  expect_refused(mixer + "out_proj.weight", labels, "update 2: the label loss");
}

TEST(Trainer, ReportsWhatTheUpdateSaw) {
  const auto models = make_tiny_models(ctx(), tiny_student());
  const auto comms = make_local_comms(1);
  Trainer::Setup setup = tiny_setup(ctx(), *comms[0], *comms[0], *models, LossConfig());
  setup.schedule.kind = ScheduleKind::wsd;
  setup.schedule.warmup = 100;
  setup.schedule.decay = 0;
  setup.schedule.total = 1000;
  Trainer trainer(setup);
  const std::vector<MicroBatch> batches = {tiny_batch(0, 2), tiny_batch(2, 1)};
  const UpdateReport report = trainer.update(batches, 1, 10);
  EXPECT_EQ(report.counts.samples, 3);
  EXPECT_NEAR(report.lr, setup.optimizer.lr * 11.5 / 100, 1e-12);
  int64_t tokens = 0, answers = 0;
  for (const MicroBatch& batch : batches) {
    const SplicedRows rows = splice_for(setup.models, batch);
    tokens += rows.cu.back();
    answers += count_rows(rows, LossPositions::all).answers;
  }
  EXPECT_EQ(report.tokens, tokens);
  EXPECT_EQ(report.counts.positions, tokens);
  EXPECT_EQ(report.counts.answers, answers);
  EXPECT_GT(report.grad_norm, 0.0);
  double squares = 0;
  for (const auto& tensor : gradients(ctx(), models->store())) {
    for (const float g : tensor) squares += static_cast<double>(g) * static_cast<double>(g);
  }
  EXPECT_NEAR(report.grad_norm, std::sqrt(squares), 1e-6 * std::sqrt(squares));
}

TEST(Trainer, AnUpdateNeedsSamples) {
  const auto models = make_tiny_models(ctx(), tiny_student());
  const auto comms = make_local_comms(1);
  Trainer trainer(tiny_setup(ctx(), *comms[0], *comms[0], *models, LossConfig()));
  EXPECT_THROW(trainer.update({}, 1, 0), Error);
  EXPECT_THROW(trainer.evaluate({}), Error);
}

TEST(Trainer, EvaluationIsTheStepsForwardPass) {
  const auto models = make_tiny_models(ctx(), tiny_student());
  const auto comms = make_local_comms(1);
  Trainer trainer(tiny_setup(ctx(), *comms[0], *comms[0], *models, LossConfig()));
  const auto before = master_values(ctx(), models->store());
  const Trainer::Evaluation evaluation = trainer.evaluate({tiny_batch(0, 2), tiny_batch(2, 2)});
  EXPECT_EQ(master_values(ctx(), models->store()), before);
  const UpdateReport update = trainer.update({tiny_batch(0, 2), tiny_batch(2, 2)}, 1, 0);
  EXPECT_EQ(evaluation.terms.total, update.terms.total);
  EXPECT_EQ(evaluation.terms.agree, update.terms.agree);
  EXPECT_EQ(evaluation.terms.layer_each, update.terms.layer_each);
  EXPECT_EQ(evaluation.counts.samples, 4);
}

}  // namespace
}  // namespace matvlm::testing
