#include "launch/memory_advice.h"

#include <algorithm>

#include "core/context.h"
#include "distill/student.h"
#include "launch/metrics.h"

namespace matvlm {
namespace {

constexpr std::pair<Recompute, const char*> kModes[] = {
    {Recompute::none, "none"}, {Recompute::mlp, "mlp"}, {Recompute::mixers, "mixers"}, {Recompute::blocks, "blocks"}};

const char* mode_name(Recompute mode) {
  return std::find_if(std::begin(kModes), std::end(kModes), [&](const auto& known) { return known.first == mode; })
      ->second;
}

}  // namespace

MemoryRequest memory_request(const RunConfig& run, const ModelConfig* teacher, const ModelConfig& student,
                             const StudentConfig& trained) {
  MemoryRequest request;
  if (teacher != nullptr) request.teacher = *teacher;
  request.student = student;
  const bool all = run.kind == RunKind::teach;
  request.trained = [all, trained](const std::string& name) { return all || is_trained(trained, name); };
  request.loss = training_loss(run);
  request.dtype = run.precision;
  request.frozen_in_fp8 = run.frozen_precision == FrozenPrecision::fp8;
  const bool gpu = run.device == DeviceChoice::cuda ||
                   (run.device == DeviceChoice::automatic && (run.precision == DType::bf16 || cuda_device_count() > 0));
  request.device = gpu ? DeviceType::cuda : DeviceType::cpu;
  request.offload = run.optimizer.offload;
  request.batch = std::min(run.batch.micro, run.batch.size);
  const bool bounded = run.kind == RunKind::teach && student.max_length > 0;
  request.length = bounded ? std::min(run.data.max_length, student.max_length) : run.data.max_length;
  return request;
}

std::string recompute_text(const RecomputeSpec& recompute, int64_t layers) {
  const int64_t count = recompute.count(layers);
  return count == 0 ? "none" : cat(mode_name(recompute.what), " in ", count, " of ", layers, " layers");
}

RecomputeSpec choose_recompute(const RunConfig& run, const MemoryRequest& request) {
  using Kind = RecomputeLayers::Kind;
  const int64_t layers = request.student.text.layers;
  const RecomputeLayers& wanted = run.train.recompute_layers;
  RecomputeSpec spec = {run.train.recompute, run.train.recompute_every};
  if (wanted.kind == Kind::all) return spec;
  spec.of = layers;
  spec.layers = wanted.number;
  check(wanted.number <= layers, "key 'train.recompute_layers': found ", wanted.number,
        ", expected at most the language model's ", layers, " layers");
  if (wanted.kind == Kind::number) return spec;

  const int64_t limit = run.run.memory_limit.bytes;
  const int64_t most = spec.what == Recompute::none ? 0 : layers;
  MemoryRequest with = request;
  MemoryPlan plan;
  for (int64_t n = 0; n <= most; ++n) {
    spec.layers = n;
    with.recompute = spec;
    plan = plan_memory(with);
    if (plan.reserved <= limit) return spec;
  }
  check(plan.peak <= limit, "key 'train.recompute_layers': found auto, but recompute ", recompute_text(spec, layers),
        " takes about ", plan.peak >> 20,
        " MiB, expected at most run.memory_limit = ", config_value(run, "run.memory_limit"), "; ",
        memory_advice(request, limit));
  return spec;
}

std::vector<MemoryChoice> memory_choices(const MemoryRequest& request) {
  std::vector<MemoryChoice> out;
  for (const Offload offload : {Offload::none, Offload::cpu}) {
    for (const auto& [mode, name] : kModes) {
      MemoryRequest with = request;
      with.recompute = {mode, 1};
      with.offload = offload;
      const char* place = offload == Offload::cpu ? " optimizer.offload=cpu" : "";
      out.push_back({cat("train.recompute=", name, place), plan_memory(with)});
    }
  }
  return out;
}

std::string memory_advice(const MemoryRequest& request, int64_t limit) {
  std::string fits;
  std::string least;
  int64_t lowest = 0;
  for (const MemoryChoice& choice : memory_choices(request)) {
    const std::string text = cat(choice.name, " takes about ", memory_text(choice.plan.peak));
    if (choice.plan.peak <= limit) fits += cat(fits.empty() ? "" : ", ", text);
    if (least.empty() || choice.plan.peak < lowest) {
      least = text;
      lowest = choice.plan.peak;
    }
  }
  const std::string rows = cat("for ", request.batch, " rows of ", request.length, " positions ");
  if (!fits.empty()) return cat(rows, fits);
  return cat(rows, least, ", more than the limit: expected a smaller batch.micro or data.max_length");
}

}  // namespace matvlm
