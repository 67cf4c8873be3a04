// One update: what it reports, and NaN that stops it before it changes anything.
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <string>
#include <thread>

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
  const auto bits = [&](const Float32View& arena) {
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

// Updates whose successors are prepared, and their teacher's pass run, while they run give the bits of updates one
// after the other; an error of the preparation waits for its turn.
TEST(Trainer, TheNextUpdateIsPreparedWhileOneRuns) {
  const auto plain = make_tiny_models(ctx(), tiny_student());
  const auto ahead = make_tiny_models(ctx(), tiny_student());
  const auto comms = make_local_comms(1);
  Trainer one_by_one(tiny_setup(ctx(), *comms[0], *comms[0], *plain, LossConfig()));
  Trainer pipelined(tiny_setup(ctx(), *comms[0], *comms[0], *ahead, LossConfig()));
  const auto batches = [](int64_t update) {
    return std::vector<MicroBatch>{tiny_batch(2 * update, 1), tiny_batch(2 * update + 1, 1)};
  };
  const auto prepare = [&](int64_t update) {
    return pipelined.prepare([&] {
      check(update < 4, "no more data");
      return batches(update);
    });
  };
  Trainer::Prepared next = prepare(0);
  for (int64_t update = 0; update < 4; ++update) {
    const UpdateReport expected = one_by_one.update(batches(update), update + 1, 2 * update);
    pipelined.begin(next, update + 1, 2 * update);
    EXPECT_THROW(pipelined.begin(next, update + 2, 2 * update), Error) << "begun twice";
    next = prepare(update + 1);
    if (update != 1) pipelined.look_ahead(next);
    if (update == 2) pipelined.look_ahead(next);  // once more changes nothing
    // What was looked at need not come.
    if (update == 0) next = prepare(update + 1);
    const UpdateReport found = pipelined.finish();
    EXPECT_EQ(found.terms.total, expected.terms.total);
    EXPECT_EQ(found.grad_norm, expected.grad_norm);
    EXPECT_EQ(found.tokens, expected.tokens);
    EXPECT_EQ(found.lr, expected.lr);
    EXPECT_EQ(ahead->store().master().to_floats(ctx()), plain->store().master().to_floats(ctx()));
  }
  EXPECT_EQ(next.failed_ranks, 1);
  try {
    pipelined.begin(next, 5, 8);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "no more data");
  }
  EXPECT_THROW(pipelined.finish(), Error) << "finished without a beginning";
  EXPECT_THROW(pipelined.look_ahead(next), Error) << "ahead of nothing";
}

// When one rank cannot prepare the next update, both finish this one; then the failed rank tells why, and the other
// waits until the run is ended.
TEST(Trainer, APreparationThatFailsOnOneRank) {
  const auto comms = make_local_comms(2);
  std::array<std::string, 2> messages;
  std::array<std::vector<float>, 2> masters;
  const auto run = [&](size_t rank) {
    const std::unique_ptr<Context> own = make_cpu_context(1);
    const auto models = make_tiny_models(*own, tiny_student());
    Trainer trainer(tiny_setup(*own, *comms[rank], *comms[rank], *models, LossConfig()));
    const auto batch = [&] { return std::vector<MicroBatch>{tiny_batch(static_cast<int64_t>(rank), 1)}; };
    Trainer::Prepared next = trainer.prepare(batch);
    trainer.begin(next, 1, 0);
    next = trainer.prepare([&] {
      check(rank == 0, "no data");
      return batch();
    });
    trainer.finish();
    masters[rank] = models->store().master().to_floats(*own);
    try {
      trainer.begin(next, 2, 2);
    } catch (const Error& error) {
      messages[rank] = error.what();
      if (rank == 1) comms[rank]->abort(1);
    }
  };
  std::thread other(run, 1);
  run(0);
  other.join();
  EXPECT_EQ(messages[1], "no data");
  EXPECT_NE(messages[0], "");
  EXPECT_FALSE(masters[0].empty());
  EXPECT_EQ(masters[0], masters[1]);
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
