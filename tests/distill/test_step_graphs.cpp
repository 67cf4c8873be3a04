// Updates whose steps are recorded and replayed have the bits of updates that are not, whatever changes from one to the
// next: values, learning rate, counts, shapes, accumulation. On the CPU, which records nothing, a replay runs the
// recorded step's code again: what it takes from anywhere but its inputs on the device is then stale, as on a GPU.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "core/allocator.h"
#include "launch/bench_step.h"
#include "tests/support/op_check.h"
#include "tests/support/tiny_model.h"

namespace matvlm::testing {
namespace {

class WorkAgain final : public DeviceGraph {
 public:
  explicit WorkAgain(std::function<void()> work) : work_(std::move(work)) {}
  void launch() override { work_(); }
  int64_t nodes() const override { return 100; }

 private:
  std::function<void()> work_;
};

std::unique_ptr<DeviceGraph> work_again(Context&, const std::function<void()>& work) {
  return std::make_unique<WorkAgain>(work);
}

struct Row {
  int64_t words;
  bool picture;
};

// Rows of those lengths with ids, labels and pixels that follow from `seed`.
MicroBatch batch_of(const ModelConfig& config, const std::vector<Row>& rows, uint64_t seed) {
  const Rng rng{seed, 17};
  MicroBatch out;
  out.image_size = config.vision->image_size;
  out.rows.cu.push_back(0);
  for (const Row& row : rows) {
    if (row.picture) {
      out.rows.ids.push_back(kImageId);
      out.rows.labels.push_back(kNoLabel);
      for (int64_t p = 0; p < 3 * out.image_size * out.image_size; ++p) {
        out.images.push_back(static_cast<float>(rng.normal((1ULL << 40) + out.images.size())));
      }
    }
    for (int64_t w = 0; w < row.words; ++w) {
      const uint64_t at = out.rows.ids.size();
      out.rows.ids.push_back(static_cast<int32_t>(rng.below(2 * at, static_cast<uint64_t>(config.text.vocab))));
      out.rows.labels.push_back(rng.below(2 * at + 1, 3) == 0 ? kNoLabel : out.rows.ids.back());
    }
    out.rows.cu.push_back(static_cast<int64_t>(out.rows.ids.size()));
    out.rows.image_of_row.push_back(row.picture ? out.n_images++ : -1);
  }
  return out;
}

using Update = std::vector<std::vector<Row>>;  // rows of its micro-batches

// Six kinds of update, among them micro-batches of equal length but other boundaries, texts alone, and accumulation
// over equal and over different shapes.
std::vector<Update> updates_of(int64_t rounds) {
  const std::vector<Row> a = {{6, true}, {3, false}}, b = {{4, true}, {5, false}}, c = {{9, false}};
  const std::vector<Update> kinds = {{a}, {b}, {a, a}, {a, b, a}, {c}, {c, a}};
  std::vector<Update> out;
  for (int64_t i = 0; i < rounds; ++i) out.insert(out.end(), kinds.begin(), kinds.end());
  return out;
}

struct Outcome {
  std::vector<float> masters, moments;
  std::vector<double> losses, norms;
  std::vector<std::vector<double>> layers;
  int64_t recorded = 0, replayed = 0;
  bool active = false;
  bool operator==(const Outcome& o) const {
    return masters == o.masters && moments == o.moments && losses == o.losses && norms == o.norms && layers == o.layers;
  }
};

struct Job {
  DType dtype = DType::f32;
  ModelConfig teacher = tiny_config();
  StudentConfig student = tiny_student();
  LossConfig loss;
  Recompute recompute = Recompute::none;
  int64_t rounds = 4;
  bool look_ahead = true;
  // Kinds of steps in updates_of(): a, b and c that begin an update, a and b behind others. Where the connector is
  // large enough that its gradient is written rather than added to, `a` behind `c`, which has no picture, is another
  // one.
  int64_t kinds = 5;
};

Outcome train(Context& ctx, const Job& job, GraphUse use, const WorkRecorder& recorder) {
  const TrainingModels made = make_random_models(ctx, job.teacher, job.student, job.dtype, 5);
  const auto comms = make_local_comms(1);
  Trainer::Setup setup;
  setup.ctx = &ctx;
  setup.host = setup.device = comms[0].get();
  setup.models.teacher = &made.teacher->vlm;
  setup.models.student = &made.vlm;
  setup.models.dtype = job.dtype;
  setup.models.recompute = {job.recompute, 2};
  setup.store = &made.weights.store();
  setup.loss = job.loss;
  setup.schedule.warmup = 60;  // the rate changes with every update
  setup.schedule.decay = 0;
  setup.schedule.total = 1000;
  setup.cuda_graph = use;
  setup.recorder = recorder;
  Trainer trainer(setup);
  Outcome out;
  const std::vector<Update> updates = updates_of(job.rounds);
  int64_t number = 0, samples = 0;
  const auto prepare = [&](size_t i) {
    return trainer.prepare([&] {
      std::vector<MicroBatch> batches;
      for (const std::vector<Row>& rows : updates[i]) {
        batches.push_back(batch_of(made.config, rows, 100 * i + batches.size()));
      }
      return batches;
    });
  };
  Trainer::Prepared next = prepare(0);
  for (size_t i = 0; i < updates.size(); ++i) {
    trainer.begin(next, ++number, samples);
    samples += next.counts.samples;
    // As in training: the next update's inputs arrive while this one runs, and its teacher's pass is queued.
    if (i + 1 < updates.size()) {
      next = prepare(i + 1);
      if (job.look_ahead) trainer.look_ahead(next);
    }
    const UpdateReport report = trainer.finish();
    out.losses.push_back(report.terms.total);
    out.norms.push_back(report.grad_norm);
    out.layers.push_back(report.terms.layer_each);
    // Evaluations come in between.
    if (i % 5 == 4) out.losses.push_back(trainer.evaluate({batch_of(made.config, updates[i][0], 7)}).terms.total);
  }
  out.masters = setup.store->master().to_floats(ctx);
  out.moments = setup.store->moment2().to_floats(ctx);
  out.recorded = trainer.graphs().recorded();
  out.replayed = trainer.graphs().replayed();
  out.active = trainer.graphs().active();
  return out;
}

void expect_same_bits(Context& ctx, const Job& job, const WorkRecorder& recorder = {}) {
  const Outcome plain = train(ctx, job, GraphUse::off, {});
  const Outcome graphs = train(ctx, job, GraphUse::on, recorder);
  EXPECT_TRUE(graphs == plain);
  EXPECT_EQ(plain.recorded + plain.replayed, 0);
  // Each kind of step is run once, recorded once and then replayed.
  int64_t steps = 0;
  for (const Update& update : updates_of(job.rounds)) steps += static_cast<int64_t>(update.size());
  EXPECT_EQ(graphs.recorded, job.kinds);
  EXPECT_EQ(graphs.replayed, steps - 2 * graphs.recorded);
  EXPECT_TRUE(graphs.active);
}

Job label_job() {
  Job job;
  job.loss.ce_weight = 0.5;
  job.student.trainable = {"language_model.model.embed_tokens.weight", "language_model.lm_head.*"};
  job.recompute = Recompute::blocks;
  return job;
}

void expect_same_bits_without_looking_ahead(Context& ctx, Job job) {
  const Outcome ahead = train(ctx, job, GraphUse::off, {});
  job.look_ahead = false;
  EXPECT_TRUE(train(ctx, job, GraphUse::off, {}) == ahead);
}

TEST(LookAhead, SameBits) { expect_same_bits_without_looking_ahead(cpu(), label_job()); }

TEST(StepGraphs, SameBits) { expect_same_bits(cpu(), Job(), work_again); }
TEST(StepGraphs, SameBitsWithLabelsAndATrainedTable) { expect_same_bits(cpu(), label_job(), work_again); }

// A recording that fails costs nothing but the graphs; the run goes on with the same bits.
void check_failures(Context& ctx, const WorkRecorder& failing, const std::string& reason) {
  const Outcome plain = train(ctx, Job(), GraphUse::off, {});
  const Outcome found = train(ctx, Job(), GraphUse::automatic, failing);
  EXPECT_TRUE(found == plain);
  EXPECT_FALSE(found.active);
  EXPECT_EQ(found.replayed, 0);
  try {
    train(ctx, Job(), GraphUse::on, failing);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()), reason);
  }
}

TEST(StepGraphs, FailuresWhileRecording) {
  check_failures(
      cpu(), [](Context&, const std::function<void()>&) -> std::unique_ptr<DeviceGraph> { fail("no recorder here"); },
      "key 'train.cuda_graph': found on, but a step could not be recorded: no recorder here");
  check_failures(
      cpu(),
      [](Context&, const std::function<void()>&) -> std::unique_ptr<DeviceGraph> { throw OutOfMemory("no memory"); },
      "no memory");
}

TEST(StepGraphs, LargeStepsAreRecordedOnlyOnDemand) {
  const ParameterStore store;
  const auto may = [&](GraphUse use, int64_t tokens) {
    return StepGraphs(cpu(), store, use, "", 100, work_again).may_record(tokens);
  };
  EXPECT_TRUE(may(GraphUse::automatic, 100));
  EXPECT_FALSE(may(GraphUse::automatic, 101));
  EXPECT_TRUE(may(GraphUse::on, 101));
  EXPECT_FALSE(may(GraphUse::off, 1));

  // The trainer's limit: a step of 10 TFLOP, some 6 operations a weight and token.
  auto models = make_tiny_models(cpu(), tiny_student());
  const auto comms = make_local_comms(1);
  Trainer::Setup setup = tiny_setup(cpu(), *comms[0], *comms[0], *models, LossConfig());
  setup.cuda_graph = GraphUse::automatic;
  setup.recorder = work_again;
  const Trainer trainer(setup);
  const TextConfig& c = setup.models.student->text.config;
  const int64_t weights = c.layers * (4 * c.hidden * c.heads * c.head_dim + 3 * c.hidden * c.mlp);
  EXPECT_TRUE(trainer.graphs().may_record(int64_t{10'000'000'000'000} / (6 * weights)));
  EXPECT_FALSE(trainer.graphs().may_record(int64_t{10'000'000'000'000} / (6 * weights) + 1));
}

TEST(StepGraphs, OnIsRefusedWhereNothingCanBeRecorded) {
  const auto models = make_tiny_models(cpu(), tiny_student());
  const auto message = [&](int ranks, const WorkRecorder& recorder) {
    const auto comms = make_local_comms(ranks);
    Trainer::Setup setup = tiny_setup(cpu(), *comms[0], *comms[0], *models, LossConfig());
    setup.cuda_graph = GraphUse::on;
    setup.recorder = recorder;
    try {
      const Trainer trainer(setup);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(message(1, {}), "key 'train.cuda_graph': found on with a device that is no GPU, expected auto or off");
  EXPECT_EQ(message(2, work_again), "key 'train.cuda_graph': found on with 2 ranks, expected auto or off");
  EXPECT_EQ(message(1, work_again), "");
}

Job wide_job(DType dtype) {
  Job job;
  job.dtype = dtype;
  job.kinds = 6;
  job.teacher = wide_heads_config();
  return job;
}

TEST(LookAheadCuda, SameBits) {
  const std::unique_ptr<Context> ctx = make_cuda_context(0);
  Job job = label_job();
  expect_same_bits_without_looking_ahead(*ctx, job);
  job.dtype = DType::bf16;
  expect_same_bits_without_looking_ahead(*ctx, job);
}

TEST(StepGraphsCuda, SameBits) {
  const auto ctx = new_cuda();
  expect_same_bits(*ctx, Job());
  expect_same_bits(*ctx, wide_job(DType::f32));
  expect_same_bits(*ctx, wide_job(DType::bf16));
}

TEST(StepGraphsCuda, SameBitsWithLabelsAndATrainedTable) {
  const auto ctx = new_cuda();
  Job job = label_job();
  expect_same_bits(*ctx, job);
  Job wide = wide_job(DType::bf16);
  wide.loss = job.loss;
  wide.loss.layer = LayerLossKind::cosine;
  wide.student.trainable = job.student.trainable;
  wide.recompute = Recompute::mixers;
  expect_same_bits(*ctx, wide);
}

// Errors inside a recording: of the step's own, out of memory, a wait for the device. The stream works on.
TEST(StepGraphsCuda, FailuresWhileRecording) {
  const auto ctx = new_cuda();
  const std::string head = "key 'train.cuda_graph': found on, but a step could not be recorded: ";
  const auto spoiled = [](const std::function<void(Context&)>& spoil) {
    return [spoil](Context& c, const std::function<void()>& work) {
      return record_work(c, [&] {
        work();
        spoil(c);
      });
    };
  };
  check_failures(*ctx, spoiled([](Context&) { fail("spoiled"); }), head + "spoiled");
  check_failures(*ctx, spoiled([](Context& c) { c.synchronize(); }),
                 head + "[cuda] the host waits for the device while work is recorded");
  check_failures(*ctx, spoiled([](Context& c) { Tensor::from(c, std::vector<float>{1}, {1}); }),
                 head + "[cuda] host values are sent while work is recorded");
  try {
    train(*ctx, Job(), GraphUse::on, spoiled([](Context& c) { Tensor::empty(c, {int64_t{1} << 50}, DType::u8); }));
    ADD_FAILURE() << "no error";
  } catch (const OutOfMemory& error) {
    EXPECT_NE(std::string(error.what()).find("asked for 1125899906842624 bytes"), std::string::npos) << error.what();
  }
  EXPECT_TRUE(train(*ctx, Job(), GraphUse::automatic, spoiled([](Context& c) {
                Tensor::empty(c, {int64_t{1} << 50}, DType::u8);
              })) == train(*ctx, Job(), GraphUse::off, {}));
}

// Graphs give way when something else needs the memory.
TEST(StepGraphsCuda, GraphsAreDroppedWhenMemoryRunsOut) {
  const auto ctx = new_cuda();
  const TrainingModels made = make_random_models(*ctx, tiny_config(), tiny_student(), DType::f32, 5);
  const auto comms = make_local_comms(1);
  Trainer::Setup setup;
  setup.ctx = ctx.get();
  setup.host = setup.device = comms[0].get();
  setup.models.teacher = &made.teacher->vlm;
  setup.models.student = &made.vlm;
  setup.store = &made.weights.store();
  setup.schedule.kind = ScheduleKind::constant;
  setup.schedule.warmup = 0;
  setup.cuda_graph = GraphUse::on;
  Trainer trainer(setup);
  const auto update = [&](int64_t number) {
    trainer.update({batch_of(made.config, {{6, true}, {3, false}}, static_cast<uint64_t>(number))}, number, 2 * number);
  };
  for (int64_t number = 1; number <= 3; ++number) update(number);
  EXPECT_EQ(trainer.graphs().replayed(), 1);
  // All that is taken and not in use, and a little: there only without the step pool's cached blocks.
  const MemoryStats stats = ctx->allocator()->stats();
  ctx->allocator()->set_limit(stats.reserved);
  {
    const Tensor rest = Tensor::empty(*ctx, {stats.reserved - stats.current}, DType::u8);
    EXPECT_LE(ctx->allocator()->stats().reserved, stats.reserved);
  }
  ctx->allocator()->set_limit(0);
  ctx->allocator()->release_cached();
  for (int64_t number = 4; number <= 6; ++number) update(number);
  EXPECT_EQ(trainer.graphs().recorded(), 2);
  EXPECT_EQ(trainer.graphs().replayed(), 2);
}

}  // namespace
}  // namespace matvlm::testing
