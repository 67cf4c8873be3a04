// The distillation step at the full size of TinyLLaVA-Phi-2-SigLIP-3.1B, 8 of 32 layers Mamba-2, random weights, bf16,
// on one GPU: time of an update and of its forward parts, tokens a second, peak memory, and the matrix product's
// ceiling measured beside them.   bench_step [UPDATES]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include "core/comm.h"
#include "core/context.h"
#include "core/error.h"
#include "core/gemm.h"
#include "core/rng.h"
#include "distill/student.h"
#include "distill/trainer.h"

namespace matvlm {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

ModelConfig full_size() {
  ModelConfig c;
  c.text.hidden = 2560;
  c.text.layers = 32;
  c.text.heads = c.text.kv_heads = 32;
  c.text.head_dim = 80;
  c.text.mlp = 10240;
  c.text.vocab = 51200;
  c.text.rotary_dims = 32;
  c.vision.emplace();
  c.vision->hidden = 1152;
  c.vision->mlp = 4304;
  c.vision->layers = 27;
  c.vision->heads = 16;
  c.vision->image_size = 384;
  c.vision->patch_size = 14;
  c.vision->drop_first_patch = false;
  return c;
}

// Uniform with deviation 0.02; norms 1, biases 0. A function of the name, so that a mixer finds its attention's values.
ValueSource random_values(const ModelConfig& config) {
  return [config](const std::string& name) {
    for (const ModelTensor& t : model_tensors(config)) {
      if (t.name != name) continue;
      std::vector<float> values(static_cast<size_t>(shape_numel(t.shape)));
      if (t.shape.size() == 1) {
        std::fill(values.begin(), values.end(), name.ends_with("bias") ? 0.0F : 1.0F);
        return values;
      }
      uint64_t state = stream_of(name) | 1;
      for (float& value : values) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        value = static_cast<float>((static_cast<double>(state >> 40) / (1 << 24) - 0.5) * 0.02 * std::sqrt(12.0));
      }
      return values;
    }
    return std::vector<float>();
  };
}

// `batch` samples of an image and text, `length` positions each.
MicroBatch random_batch(const ModelConfig& config, int64_t batch, int64_t length) {
  const Rng rng{11, stream_of("batch")};
  MicroBatch out;
  out.n_images = batch;
  out.image_size = config.vision->image_size;
  out.images.resize(static_cast<size_t>(batch * 3 * out.image_size * out.image_size));
  for (size_t i = 0; i < out.images.size(); ++i) out.images[i] = static_cast<float>(rng.normal(i));
  out.rows.cu.push_back(0);
  for (int64_t b = 0; b < batch; ++b) {
    out.rows.ids.push_back(kImageId);
    out.rows.labels.push_back(kNoLabel);
    for (int64_t i = 0; i < length - config.vision->tokens(); ++i) {
      const auto id = static_cast<int32_t>((out.rows.ids.size() * 7919) % static_cast<size_t>(config.text.vocab));
      out.rows.ids.push_back(id);
      out.rows.labels.push_back(id);
    }
    out.rows.cu.push_back(static_cast<int64_t>(out.rows.ids.size()));
    out.rows.image_of_row.push_back(b);
  }
  return out;
}

// Median milliseconds of `repetitions` calls after two.
double median_ms(Context& ctx, int repetitions, const std::function<void()>& call) {
  std::vector<double> times;
  for (int i = 0; i < repetitions + 2; ++i) {
    ctx.synchronize();
    const auto begin = std::chrono::steady_clock::now();
    call();
    ctx.synchronize();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    if (i >= 2) times.push_back(took.count());
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

double matmul_tflops(Context& ctx) {
  constexpr int64_t kSize = 8192;
  const Tensor a = Tensor::zeros(ctx, {kSize, kSize}, DType::bf16);
  const Tensor b = Tensor::zeros(ctx, {kSize, kSize}, DType::bf16);
  const Tensor c = Tensor::empty(ctx, {kSize, kSize}, DType::bf16);
  const double ms = median_ms(ctx, 10, [&] { gemm(ctx, false, true, 1.0F, a, b, 0.0F, c); });
  return 2.0 * kSize * kSize * kSize / ms / 1e9;
}

struct Bench {
  std::unique_ptr<Context> ctx = make_cuda_context(0);
  ModelConfig teacher_config = full_size();
  ModelConfig config;
  ModelWeights teacher_weights, student_weights;
  Vlm teacher, student;

  Bench() {
    StudentConfig s;
    for (int64_t i = 0; i < teacher_config.text.layers; i += 4) s.ssm_layers.push_back(i);
    config = student_config(teacher_config, s);
    const ValueSource values = random_values(teacher_config);
    teacher_weights = make_weights(
        *ctx, teacher_config, DType::bf16, [](const std::string&) { return false; }, values);
    student_weights = make_student_weights(*ctx, config, s, teacher_weights, values, DType::bf16, 1);
    teacher = make_vlm(teacher_weights, teacher_config);
    student = make_vlm(student_weights, config);
  }

  void forward_parts(const MicroBatch& batch, int repetitions) {
    Context& c = *ctx;
    const Tensor images =
        Tensor::from_floats(c, batch.images, {batch.n_images, 3, batch.image_size, batch.image_size}, DType::bf16);
    const SplicedRows rows = splice_rows(batch.rows, config.vision->patches(), false, 0, config.text.vocab);
    const Pass pass = make_pass(c, rows.cu);
    Tensor features;
    const double vision = median_ms(c, repetitions, [&] {
      Graph g(c, false);
      features = run_vision(g, *teacher.vision, images).value();
    });
    const auto text = [&](const Vlm& model) {
      return median_ms(c, repetitions, [&] {
        Graph g(c, false);
        const Var tokens = run_connector(g, model.connector, g.constant(features));
        run_text(g, model.text, run_embedding(g, model.text, tokens, rows), pass);
      });
    };
    std::printf("  forward alone, ms: vision %.2f, teacher %.2f, student %.2f\n", vision, text(teacher), text(student));
  }

  void step(int64_t batch_size, int64_t length, bool recompute, int updates) {
    Context& c = *ctx;
    const auto comms = make_local_comms(1);
    Trainer::Setup setup;
    setup.ctx = &c;
    setup.host = setup.device = comms.front().get();
    setup.models = {&teacher, &student, DType::bf16, false, recompute, 0};
    setup.store = &student_weights.store();
    setup.schedule.kind = ScheduleKind::constant;
    setup.schedule.warmup = 0;
    setup.schedule.total = 1 << 20;
    Trainer trainer(setup);
    const std::vector<MicroBatch> batches = {random_batch(config, batch_size, length)};
    c.allocator()->release_cached();
    c.allocator()->reset_peak();
    int64_t number = 0;
    double loss = 0;
    const double ms = median_ms(c, updates, [&] {
      ++number;
      loss = trainer.update(batches, number, number * batch_size).terms.total;
    });
    const MemoryStats memory = c.allocator()->stats();
    const double evaluation = median_ms(c, updates, [&] { trainer.evaluate(batches); });
    std::printf(
        "B %lld, L %lld%s: %.1f ms an update, %.0f tokens/s, forward and losses %.1f ms, peak %.2f GiB "
        "(taken from the device %.2f), loss %.4g\n",
        static_cast<long long>(batch_size), static_cast<long long>(length), recompute ? ", recomputed" : "", ms,
        static_cast<double>(batch_size * length) / ms * 1e3, evaluation, static_cast<double>(memory.peak) / kGiB,
        static_cast<double>(memory.reserved) / kGiB, loss);
    std::fflush(stdout);
  }
};

void run(int updates) {
  Bench bench;
  std::printf("%s; %lld parameters, %lld trained; matrix product %.0f TFLOP/s\n", bench.ctx->description().c_str(),
              static_cast<long long>(bench.student_weights.numel()),
              static_cast<long long>(bench.student_weights.store().numel()), matmul_tflops(*bench.ctx));
  bench.step(4, 1024, false, updates);
  bench.forward_parts(random_batch(bench.config, 4, 1024), updates);
  bench.step(4, 1024, true, updates);
  bench.step(1, 1428, true, updates);
}

}  // namespace
}  // namespace matvlm

int main(int argc, char** argv) {
  try {
    matvlm::run(argc > 1 ? std::max(1, std::atoi(argv[1])) : 7);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_step: %s\n", e.what());
    return 1;
  }
}
