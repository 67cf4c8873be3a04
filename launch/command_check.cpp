// check: a dry run of a config. Reads configs, headers and the pack, no weights; says what would be trained and how
// much memory one rank needs.
#include <algorithm>
#include <filesystem>
#include <iomanip>
#include <iostream>

#include "autograd/ops/head_loss.h"
#include "data/dataset.h"
#include "distill/student.h"
#include "launch/attention_backend.h"
#include "launch/commands.h"
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

// Elements that backward keeps per token: inputs and outputs of the ops of every block (queries, keys, values, mixed,
// MLP twice its width, norms and residuals), or one residual a block when blocks are recomputed.
double activation_elements(const RunConfig& run, const ModelConfig& config) {
  const TextConfig& c = config.text;
  const auto d = static_cast<double>(c.hidden);
  const auto q = static_cast<double>(c.heads * c.head_dim);
  const auto kv = static_cast<double>(c.kv_heads * c.head_dim);
  // A gated MLP keeps gate, up and their product; a sequential block one more norm and residual.
  const double rest =
      (c.block.parallel ? 3 : 5) * d + (c.block.mlp == MlpKind::swiglu ? 3.0 : 2.0) * static_cast<double>(c.mlp);
  const double attention = rest + 3 * q + 3 * kv;
  const double mamba = rest + 5 * q + 5 * kv;
  const auto ssm = static_cast<double>(config.mamba.ssm_layers.size());
  const auto layers = static_cast<double>(c.layers);
  if (run.train.recompute == Recompute::blocks) return layers * d + std::max(attention, mamba) + ssm * mamba;
  // The layer pass runs the mixers once more.
  return (layers - ssm) * attention + ssm * mamba + ssm * (d + 5 * q + 5 * kv);
}

void line(const std::string& name, const std::string& value) {
  std::cout << "  " << std::left << std::setw(28) << name << value << "\n";
}

}  // namespace

int run_check(Process& process, const CheckArgs& args) {
  check(args.ranks > 0, "--ranks: found ", args.ranks, ", expected a positive number");
  const RunConfig run = load_config(args.config, args.sets);
  if (process.rank() != 0) return 0;
  check_attention_backend(run);
  ModelConfig config;
  StudentConfig student;
  if (run.kind == RunKind::distill) {
    const ModelConfig teacher = read_model_config(run.teacher.path);
    check_source(teacher, TensorSource::open(run.teacher.path));
    student = resolved_student(run, teacher);
    config = student_config(teacher, student);
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
  const int64_t compute = dtype_size(run.precision);
  const int64_t trained_bytes = s.trained * (16 + (run.precision == DType::f32 ? 0 : compute));
  // The teacher's attention stays beside the student's mixers; all else is held once.
  int64_t teacher_only = 0;
  if (run.kind == RunKind::distill) {
    ModelConfig teacher = config;
    teacher.mamba.ssm_layers.clear();
    for (const ModelTensor& t : model_tensors(teacher)) teacher_only += shape_numel(t.shape);
    teacher_only -= s.frozen;
  }
  const int64_t frozen_bytes = (s.frozen + std::max<int64_t>(teacher_only, 0)) * compute;
  const int64_t longest =
      std::min(run.data.max_length,
               config.max_length > 0 && run.kind == RunKind::teach ? config.max_length : run.data.max_length);
  const double tokens = static_cast<double>(run.batch.micro * longest);
  const auto activations = static_cast<int64_t>(tokens * activation_elements(run, config)) * compute;
  const int64_t scratch = HeadLossSpec().scratch_bytes;

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
  line("memory: frozen weights", memory_text(frozen_bytes));
  line("memory: trained weights", memory_text(trained_bytes));
  line("memory: activations", cat(memory_text(activations), " (estimate, rows of ", longest, " positions)"));
  line("memory: loss tiles", memory_text(scratch));
  line("memory: one rank", memory_text(frozen_bytes + trained_bytes + activations + scratch));
  return 0;
}

}  // namespace matvlm
