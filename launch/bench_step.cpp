#include "launch/bench_step.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <functional>
#include <numeric>
#include <utility>

#include "autograd/ops/random_fill.h"
#include "core/allocator.h"
#include "core/gemm.h"
#include "distill/student.h"
#include "launch/memory_advice.h"
#include "layers/init.h"

namespace matvlm {
namespace {

constexpr int64_t kWarmUp = 2;  // updates: plans of the matrix library, blocks of the allocator, the graph's recording

template <class T>
T median(std::vector<T> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Median milliseconds of `repetitions` calls after kWarmUp.
double median_ms(Context& ctx, int repetitions, const std::function<void()>& call) {
  std::vector<double> times;
  for (int64_t i = 0; i < repetitions + kWarmUp; ++i) {
    ctx.synchronize();
    const auto begin = std::chrono::steady_clock::now();
    call();
    ctx.synchronize();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    if (i >= kWarmUp) times.push_back(took.count());
  }
  return median(times);
}

// As in training: the next update is prepared, and its teacher's pass queued, while the device computes this one.
// `before` is called with the number of each, from 0. Returns the last one's loss.
double run_updates(Trainer& trainer, const std::vector<MicroBatch>& batches, int64_t updates,
                   const std::function<void(int64_t)>& before) {
  const auto prepare = [&] { return trainer.prepare([&] { return batches; }); };
  Trainer::Prepared next = prepare();
  double loss = 0;
  for (int64_t i = 0; i < updates; ++i) {
    before(i);
    trainer.begin(next, i + 1, i * next.counts.samples);
    next = prepare();
    trainer.look_ahead(next);
    loss = trainer.finish().terms.total;
  }
  return loss;
}

// Largest of all ranks, in place.
void largest(Comm& host, std::vector<double> values, const std::vector<double*>& out) {
  if (host.size() > 1) host.all_reduce_max(std::span<double>(values));
  for (size_t i = 0; i < out.size(); ++i) *out[i] = values[i];
}

}  // namespace

TrainingModels make_random_models(Context& ctx, const ModelConfig& teacher_config, const StudentConfig& student,
                                  DType dtype, uint64_t seed, bool in_fp8, Offload offload) {
  TrainingModels out;
  out.teacher.emplace();
  LoadedModel& teacher = *out.teacher;
  teacher.config = teacher_config;
  teacher.weights = random_frozen_weights(ctx, teacher.config, dtype, seed);
  // What the student trains starts from values that are not rounded to fp8.
  const ModelWeights plain = teacher.weights;
  if (in_fp8) hold_in_fp8(ctx, teacher.config, teacher.weights);
  teacher.vlm = make_vlm(teacher.weights, teacher.config);
  out.config = student_config(teacher.config, student);
  const ValueSource values = [&](const std::string& name) { return plain.values(ctx, name); };
  out.weights = make_student_weights(ctx, out.config, student, teacher.weights, values, dtype, seed, offload);
  out.vlm = make_vlm(out.weights, out.config);
  return out;
}

BenchShape parse_bench_shape(const std::string& text) {
  BenchShape out;
  const size_t colon = text.find(':');
  const std::string sizes = text.substr(0, colon);
  if (colon != std::string::npos) out.recompute = text.substr(colon + 1);
  const char* const end = sizes.data() + sizes.size();
  const auto batch = std::from_chars(sizes.data(), end, out.batch);
  bool ok = batch.ec == std::errc() && batch.ptr != end && *batch.ptr == 'x' && out.batch > 0;
  if (ok) {
    const auto length = std::from_chars(batch.ptr + 1, end, out.length);
    ok = length.ec == std::errc() && length.ptr == end && out.length > 1;
  }
  check(ok && (colon == std::string::npos || !out.recompute.empty()), "--shapes: found '", text,
        "', expected samples x positions as 4x1024, with a value of train.recompute as 1x1428:blocks");
  return out;
}

double BenchResult::comm_hidden() const {
  const double left = parts[static_cast<size_t>(StepPart::comm)];
  return comm_ms > 0 ? std::clamp(1 - left / comm_ms, 0.0, 1.0) : 0.0;
}

StepBench::StepBench(Process& process, const RunConfig& config, bool text_only)
    : runtime_(process, config.device, config.precision), text_only_(text_only) {
  check(config.kind == RunKind::distill, "bench step: found the config of a teach run, expected one of a distill run");
  ModelConfig teacher = read_model_config(config.teacher.path);
  if (text_only) teacher.vision.reset();
  student_ = resolved_student(config, teacher);
  offload_ = config.optimizer.offload;
  models_ = make_random_models(runtime_.ctx(), teacher, student_, config.precision,
                               static_cast<uint64_t>(config.run.seed), frozen_in_fp8(runtime_.ctx(), config), offload_);
  runtime_.ctx().allocator()->set_limit(config.run.memory_limit.bytes);
}

double StepBench::matmul_tflops() {
  Context& ctx = runtime_.ctx();
  const int64_t size = ctx.on_gpu() ? 8192 : 1024;
  const DType dtype = runtime_.precision();
  const Tensor a = Tensor::empty(ctx, {size, size}, dtype);
  const Tensor b = Tensor::empty(ctx, {size, size}, dtype);
  const Tensor c = Tensor::empty(ctx, {size, size}, dtype);
  // A chip draws less power, and runs faster, on zeros than on a model's numbers.
  fill_random(ctx, a, 0.0, 1.0, {1, stream_of("a")});
  fill_random(ctx, b, 0.0, 1.0, {1, stream_of("b")});
  const double ms = median_ms(ctx, 10, [&] { gemm(ctx, false, true, 1.0F, a, b, 0.0F, c); });
  const auto n = static_cast<double>(size);
  return 2 * n * n * n / ms / 1e9;
}

MicroBatch StepBench::make_batch(const BenchShape& shape) const {
  const ModelConfig& config = models_.config;
  const Rng rng{11, stream_of("batch")};
  const bool pictures = !text_only_ && config.vision && config.vision->tokens() < shape.length;
  MicroBatch out;
  out.rows.cu.push_back(0);
  if (pictures) {
    out.n_images = shape.batch;
    out.image_size = config.vision->image_size;
    out.images.resize(static_cast<size_t>(shape.batch * 3 * out.image_size * out.image_size));
    for (size_t i = 0; i < out.images.size(); ++i) out.images[i] = static_cast<float>(rng.uniform(i, -1.0, 1.0));
  }
  for (int64_t b = 0; b < shape.batch; ++b) {
    if (pictures) {
      out.rows.ids.push_back(kImageId);
      out.rows.labels.push_back(kNoLabel);
    }
    const int64_t words = shape.length - (pictures ? config.vision->tokens() : 0);
    for (int64_t i = 0; i < words; ++i) {
      const uint64_t id = rng.below(out.rows.ids.size(), static_cast<uint64_t>(config.text.vocab));
      out.rows.ids.push_back(static_cast<int32_t>(id));
      out.rows.labels.push_back(static_cast<int32_t>(id));
    }
    out.rows.cu.push_back(static_cast<int64_t>(out.rows.ids.size()));
    out.rows.image_of_row.push_back(pictures ? b : -1);
  }
  return out;
}

double StepBench::sum_ms(const Trainer::Setup& setup) {
  if (setup.device->size() == 1) return 0;
  GradSync sync(*setup.ctx, *setup.device, *setup.store, setup.bucket_bytes);
  return median_ms(*setup.ctx, 5, [&] {
    setup.host->barrier();
    sync.begin();
    sync.finish();
  });
}

void StepBench::run_parts(Trainer::Setup setup, const std::vector<MicroBatch>& batches, int64_t updates,
                          BenchResult& out) {
  StepTimer timer(runtime_.ctx());
  setup.models.timer = &timer;
  setup.cuda_graph = GraphUse::off;
  Trainer trainer(setup);
  out.loss = run_updates(trainer, batches, kWarmUp + updates, [&](int64_t i) {
    if (i == kWarmUp) timer.take();
    timer.begin_update();
  });
  std::vector<std::pair<double, StepTimer::Times>> each;
  for (const StepTimer::Times& times : timer.take()) {
    each.emplace_back(std::accumulate(times.begin(), times.end(), 0.0), times);
  }
  std::tie(out.parts_ms, out.parts) = median(each);
}

double StepBench::run_whole(const Trainer::Setup& setup, const std::vector<MicroBatch>& batches, int64_t updates) {
  Trainer trainer(setup);
  const bool plain = setup.cuda_graph == GraphUse::off;
  if (!plain && !trainer.graphs().may_record(batches.front().rows.cu.back())) return 0;
  if (!plain) runtime_.ctx().allocator()->release_cached();  // steps have a pool of their own now
  const auto clock = make_device_clock(runtime_.ctx());
  run_updates(trainer, batches, kWarmUp + updates, [&](int64_t i) {
    if (i >= kWarmUp) clock->mark();
  });
  clock->mark();
  std::vector<double> each = clock->read();
  for (size_t i = 0; i + 1 < each.size(); ++i) each[i] = each[i + 1] - each[i];
  each.pop_back();
  return plain || trainer.graphs().active() ? median(each) : 0;
}

BenchResult StepBench::run(const RunConfig& config, const BenchShape& shape, int64_t updates) {
  Context& ctx = runtime_.ctx();
  Comm& host = runtime_.host();
  MemoryRequest request = memory_request(config, &models_.teacher->config, models_.config, student_);
  request.device = ctx.device().type;
  request.offload = offload_;
  request.batch = shape.batch;
  request.length = shape.length;
  request.recompute = choose_recompute(config, request);
  Trainer::Setup setup = trainer_setup(runtime_, config, models_, request.recompute);
  setup.models.max_length = 0;
  const std::vector<MicroBatch> batches = {make_batch(shape)};
  BenchResult out;
  out.shape = shape;
  out.recompute = request.recompute;
  out.images = batches.front().n_images;
  ctx.allocator()->release_cached();
  ctx.allocator()->reset_peak();
  Trainer::Setup plain = setup;
  plain.cuda_graph = GraphUse::off;
  out.ms = out.plain_ms = run_whole(plain, batches, updates);
  const double as_graph = setup.cuda_graph == GraphUse::off ? 0 : run_whole(setup, batches, updates);
  out.graphs = as_graph > 0;
  if (out.graphs) out.ms = as_graph;
  run_parts(setup, batches, updates, out);
  const int64_t samples = shape.batch * host.size();
  const MemoryStats memory = ctx.allocator()->stats();
  out.comm_ms = sum_ms(setup);
  out.comm_bytes = setup.store->numel() * dtype_size(DType::f32);
  double peak = 0, reserved = 0;
  largest(host,
          {out.ms, out.plain_ms, out.comm_ms, static_cast<double>(memory.peak), static_cast<double>(memory.reserved)},
          {&out.ms, &out.plain_ms, &out.comm_ms, &peak, &reserved});
  out.peak_bytes = static_cast<int64_t>(peak);
  out.predicted = plan_memory(request);
  out.reserved_bytes = static_cast<int64_t>(reserved);
  out.tokens_per_second = static_cast<double>(samples * shape.length) / out.ms * 1e3;
  out.flops = step_flops(models_.config, student_, config.loss, {shape.batch, shape.length, out.images});
  return out;
}

}  // namespace matvlm
