// bench step: time, throughput and memory of an update, part by part.
#include <iomanip>
#include <iostream>
#include <sstream>

#include "core/file.h"
#include "core/json.h"
#include "launch/bench_step.h"
#include "launch/commands.h"
#include "launch/metrics.h"

namespace matvlm {
namespace {

std::string fixed(double value, int digits) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(digits) << value;
  return out.str();
}

// Four digits at least of what a processor does, no fractions of what a GPU does.
std::string rate(double value) { return fixed(value, value < 10 ? 4 : 1); }

void line(const std::string& name, const std::string& value) {
  std::cout << "  " << std::left << std::setw(22) << name << value << "\n";
}

// GB/s that each rank's links carry in a ring, as nccl-tests reckons.
double bus_rate(const BenchResult& r, int ranks) {
  return r.comm_ms > 0 ? 2.0 * (ranks - 1) / ranks * static_cast<double>(r.comm_bytes) / r.comm_ms / 1e6 : 0.0;
}

std::string title(const BenchResult& r, int64_t layers) {
  return cat("B ", r.shape.batch, ", L ", r.shape.length, r.images > 0 ? " with a picture each" : ", text only",
             ", recompute ", recompute_text(r.recompute, layers));
}

void print(const BenchResult& r, int64_t layers, double ceiling, int ranks) {
  std::cout << "\n" << title(r, layers) << "\n";
  for (size_t i = 0; i < kStepParts; ++i) {
    line(step_part_name(static_cast<StepPart>(i)),
         cat(fixed(r.parts[i], 2), " ms  ", fixed(100 * r.parts[i] / r.parts_ms, 1), " %"));
  }
  line("one after the other", cat(fixed(r.parts_ms, 2), " ms"));
  line("update (median)",
       cat(fixed(r.ms, 2), " ms", r.graphs ? cat(" as a CUDA graph; without one ", fixed(r.plain_ms, 2), " ms") : ""));
  line("tokens/s",
       cat(fixed(r.tokens_per_second, 0), ranks > 1 ? cat(", of a rank ", fixed(r.tokens_per_second / ranks, 0)) : ""));
  line("model TFLOP/s", cat(rate(r.tflops()), " (", rate(r.flops.total() / 1e12), " TFLOP an update), ",
                            fixed(100 * r.tflops() / ceiling, 1), " % of the matrix product's"));
  if (ranks > 1) {
    line("sum over ranks alone", cat(fixed(r.comm_ms, 2), " ms, bus ", fixed(bus_rate(r, ranks), 1), " GB/s"));
    line("of it hidden", cat(fixed(100 * r.comm_hidden(), 1), " %"));
  }
  line("peak memory", cat(memory_text(r.peak_bytes), " live, predicted ", memory_text(r.predicted.peak), "; ",
                          memory_text(r.reserved_bytes), " taken, predicted ", memory_text(r.predicted.reserved)));
  line("loss", fixed(r.loss, 4));
  std::cout << std::flush;
}

Json to_json(const BenchResult& r, int64_t layers, double ceiling, int ranks) {
  Json parts = Json::object();
  for (size_t i = 0; i < kStepParts; ++i) parts.set(step_part_name(static_cast<StepPart>(i)), r.parts[i]);
  Json out = Json::object();
  out.set("batch", r.shape.batch).set("length", r.shape.length).set("images", r.images);
  out.set("recompute", std::string_view(r.shape.recompute)).set("recompute_layers", r.recompute.count(layers));
  out.set("ms", r.ms).set("parts_ms", parts).set("parts_sum_ms", r.parts_ms);
  out.set("cuda_graph", r.graphs).set("plain_ms", r.plain_ms);
  out.set("tokens_per_second", r.tokens_per_second).set("tflop", r.flops.total() / 1e12).set("tflops", r.tflops());
  out.set("share_of_matmul", r.tflops() / ceiling).set("comm_ms", r.comm_ms).set("comm_hidden", r.comm_hidden());
  out.set("comm_bytes", r.comm_bytes).set("comm_bus_gb_per_second", bus_rate(r, ranks));
  out.set("peak_bytes", r.peak_bytes)
      .set("predicted_bytes", r.predicted.peak)
      .set("reserved_bytes", r.reserved_bytes)
      .set("predicted_reserved_bytes", r.predicted.reserved)
      .set("loss", r.loss);
  return out;
}

}  // namespace

int run_bench_step(Process& process, const BenchStepArgs& args) {
  // Everything that can be wrong is found before the models are made.
  std::vector<std::pair<BenchShape, RunConfig>> runs;
  for (const std::string& text : args.shapes) {
    BenchShape shape = parse_bench_shape(text);
    std::vector<std::string> sets = args.sets;
    if (!shape.recompute.empty()) sets.push_back("train.recompute=" + shape.recompute);
    RunConfig config = load_config(args.config, sets);
    shape.recompute = config_value(config, "train.recompute");
    runs.emplace_back(shape, std::move(config));
  }
  StepBench bench(process, load_config(args.config, args.sets), args.text_only);
  const double ceiling = bench.matmul_tflops();
  const bool speaks = process.rank() == 0;
  const TrainingModels& models = bench.models();
  const int64_t layers = models.config.text.layers;
  const int64_t ssm = static_cast<int64_t>(models.config.mamba.ssm_layers.size());
  if (speaks) {
    std::cout << bench.runtime().description() << "\n"
              << models.weights.numel() << " parameters at random, " << models.weights.store().numel() << " trained, "
              << ssm << " of " << layers << " layers Mamba-2; matrix product " << rate(ceiling) << " TFLOP/s\n";
  }
  Json results = Json::array();
  for (const auto& [shape, config] : runs) {
    const BenchResult result = bench.run(config, shape, args.updates);
    results.push(to_json(result, layers, ceiling, process.size()));
    if (speaks) print(result, layers, ceiling, process.size());
  }
  if (!speaks || args.json.empty()) return 0;
  Json out = Json::object();
  out.set("device", std::string_view(bench.runtime().ctx().description())).set("ranks", process.size());
  out.set("parameters", models.weights.numel()).set("trained", models.weights.store().numel());
  out.set("layers", layers).set("ssm_layers", ssm).set("matmul_tflops", ceiling);
  out.set("shapes", results);
  write_file_atomic(args.json, out.dump(2) + "\n");
  return 0;
}

}  // namespace matvlm
