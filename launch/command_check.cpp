// check: a dry run of a config. Reads configs, headers and the pack, no weights; says what would be trained and how
// much memory one rank needs.
#include <algorithm>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <optional>

#include "data/dataset.h"
#include "distill/student.h"
#include "launch/attention_backend.h"
#include "launch/commands.h"
#include "launch/memory_advice.h"
#include "launch/metrics.h"
#include "launch/model_folder.h"
#include "launch/runtime.h"

namespace matvlm {
namespace {

struct Sizes {
  int64_t frozen = 0, trained = 0, mixers = 0, connector = 0, other = 0;  // parameters
};

Sizes count_tensors(const RunConfig& run, const ModelConfig& config, const StudentConfig& student) {
  Sizes s;
  for (const ModelTensor& t : model_tensors(config)) {
    const int64_t n = shape_numel(t.shape);
    const bool trained = run.kind == RunKind::teach || is_trained(student, t.name);
    (trained ? s.trained : s.frozen) += n;
    if (!trained) continue;
    const bool mixer = t.name.find(".mamba.") != std::string::npos;
    (mixer ? s.mixers : t.name.starts_with("connector.") ? s.connector : s.other) += n;
  }
  return s;
}

void line(const std::string& name, const std::string& value) {
  std::cout << "  " << std::left << std::setw(28) << name << value << "\n";
}

// What one rank needs, by a step that is counted but not run.
void print_memory(const RunConfig& run, MemoryRequest request) {
  request.recompute = choose_recompute(run, request);
  line("recompute", recompute_text(request.recompute, request.student.text.layers));
  const MemoryPlan plan = plan_memory(request);
  line("memory: frozen weights", memory_text(plan.frozen));
  line("memory: trained weights", memory_text(plan.trained));
  line("memory: activations", cat(memory_text(plan.activations), " (", request.batch, " rows of ", request.length,
                                  " positions, ", request.device == DeviceType::cuda ? "GPU" : "CPU", ")"));
  line("memory: workspace", memory_text(plan.workspace));
  line("memory: one rank", cat(memory_text(plan.peak), ", ", memory_text(plan.reserved), " taken from the device"));
  const std::vector<MemoryChoice> choices = memory_choices(request);
  const size_t half = choices.size() / 2;  // the second half: the same with the optimizer's state on the CPU
  for (size_t i = 0; i < half; ++i) {
    line(cat("  ", choices[i].name), cat(memory_text(choices[i].plan.peak), ", with optimizer.offload=cpu ",
                                         memory_text(choices[half + i].plan.peak)));
  }
}

}  // namespace

int run_check(Process& process, const CheckArgs& args) {
  check(args.ranks > 0, "--ranks: found ", args.ranks, ", expected a positive number");
  const RunConfig run = load_config(args.config, args.sets);
  if (process.rank() != 0) return 0;
  check_attention_backend(run);
  ModelConfig config;
  StudentConfig student;
  std::optional<ModelConfig> teacher;
  if (run.kind == RunKind::distill) {
    teacher = read_model_config(run.teacher.path);
    check_source(*teacher, TensorSource::open(run.teacher.path));
    student = resolved_student(run, *teacher);
    config = student_config(*teacher, student);
    check_trainable_patterns(student, config);
  } else {
    const Tokenizer tokenizer = Tokenizer::read_file(run.teach.tokenizer);
    config = taught_config(run.teach.model, tokenizer.vocab_size(), run.data.max_length, run.data.image_aspect);
  }
  PackExpectation expected;
  expected.vocab_size = config.text.vocab;
  expected.tokens_per_image = config.tokens_per_image();
  expected.text_only = !config.vision;
  const Dataset train(run.data.train.paths, expected);
  if (!run.data.heldout.empty()) const Dataset heldout(run.data.heldout.paths, expected);

  const Sizes s = count_tensors(run, config, student);
  std::cout << config_table(run) << "\n";
  line("frozen parameters", cat(s.frozen));
  line("trained parameters",
       cat(s.trained, " (mixers ", s.mixers, ", connector ", s.connector, ", other ", s.other, ")"));
  std::string layers;
  for (const int64_t layer : config.mamba.ssm_layers) layers += cat(layers.empty() ? "" : ", ", layer);
  line("Mamba-2 layers", cat(config.mamba.ssm_layers.size(), " of ", config.text.layers, "  [", layers, "]"));
  line("samples", cat(train.size(), " in ", train.path()));
  line("updates", cat((run.schedule.total + run.batch.size - 1) / run.batch.size, " of ", run.batch.size, " samples"));
  line("rows a rank and update",
       cat((run.batch.size + args.ranks - 1) / args.ranks, " in micro-batches of ", run.batch.micro));
  print_memory(run, memory_request(run, teacher ? &*teacher : nullptr, config, student));
  return 0;
}

}  // namespace matvlm
