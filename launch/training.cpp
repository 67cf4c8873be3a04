#include "launch/training.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <limits>
#include <utility>

#include "core/allocator.h"
#include "core/gemm_fp8.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/watchdog.h"
#include "distill/student.h"
#include "launch/attention_backend.h"
#include "launch/run_model.h"

namespace matvlm {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

TrainingModels make_distill_models(Context& ctx, const RunConfig& config) {
  TrainingModels out;
  out.teacher = load_model_folder(ctx, config.teacher.path, config.precision, frozen_in_fp8(ctx, config));
  out.tokenizer_file = tokenizer_file_of(config.teacher.path);
  const StudentConfig student = resolved_student(config, out.teacher->config);
  check(out.teacher->config.mamba.ssm_layers.empty(), config.teacher.path,
        ": the teacher has Mamba layers, expected attention in every layer");
  out.config = student_config(out.teacher->config, student);
  ValueSource values = values_from(TensorSource::open(config.teacher.path));
  out.weights = make_student_weights(ctx, out.config, student, out.teacher->weights, values, config.precision,
                                     static_cast<uint64_t>(config.run.seed), config.optimizer.offload);
  if (const auto earlier = earlier_student(config.student, out.config)) {
    load_masters(ctx, out.weights.store(), earlier->source, true, earlier->restored);
    check_start_is_kept(out.config, out.weights.store(), earlier->source.path(), config.teacher.path);
  }
  out.vlm = make_vlm(out.weights, out.config);
  return out;
}

TrainingModels make_teach_models(Context& ctx, const RunConfig& config) {
  TrainingModels out;
  out.tokenizer_file = config.teach.tokenizer;
  const Tokenizer tokenizer = Tokenizer::read_file(config.teach.tokenizer);
  out.config =
      taught_config(config.teach.model, tokenizer.vocab_size(), config.data.max_length, config.data.image_aspect);
  std::map<std::string, ModelTensor> by_name;
  for (const ModelTensor& t : model_tensors(out.config)) by_name[t.name] = t;
  out.weights = make_weights(
      ctx, out.config, config.precision, [](const std::string&) { return true; },
      [&](const std::string& name) {
        return init_random_tensor(out.config, by_name.at(name), static_cast<uint64_t>(config.run.seed));
      },
      nullptr, config.optimizer.offload);
  out.vlm = make_vlm(out.weights, out.config);
  return out;
}

PackExpectation expectation(const RunConfig& config, const TrainingModels& models) {
  PackExpectation e;
  e.vocab_size = models.config.text.vocab;
  e.tokens_per_image = models.config.tokens_per_image();
  e.text_only = !models.config.vision;
  e.tokenizer_sha256 = Tokenizer::read_file(models.tokenizer_file).sha256();
  static_cast<void>(config);
  return e;
}

ImagePreprocess preprocess_for(const RunConfig& config, const TrainingModels& models) {
  ImagePreprocess how = preprocess_of(models.config);
  how.aspect = config.data.image_aspect;
  return how;
}

// Size and content of the first and last MiB: a packed data set of 100 GB must not be read to start a run.
std::string file_fingerprint(const std::string& path) {
  constexpr size_t kPart = 1 << 20;
  const MappedFile file(path);
  const std::span<const std::byte> bytes = file.bytes();
  Hasher hasher;
  hasher.update(bytes.first(std::min(kPart, bytes.size())));
  hasher.update(bytes.last(std::min(kPart, bytes.size())));
  return cat(bytes.size(), "-", hex(hasher.digest()));
}

std::string describe(const TrainingModels& models) {
  const int64_t trained = models.weights.store().numel();
  const int64_t all = models.weights.numel();
  const size_t in_fp8 = models.teacher ? models.teacher->weights.fp8().size() : 0;
  return cat(all, " parameters, ", trained, " of them trained, ", models.config.mamba.ssm_layers.size(), " of ",
             models.config.text.layers, " layers are Mamba-2",
             in_fp8 > 0 ? cat(", ", in_fp8, " of the teacher's matrices are in fp8") : "");
}

}  // namespace

bool frozen_in_fp8(Context& ctx, const RunConfig& config) {
  if (config.frozen_precision != FrozenPrecision::fp8) return false;
  const std::string obstacle = fp8_obstacle(ctx);
  check(obstacle.empty(), "key 'precision.frozen': found fp8 on ", obstacle);
  return true;
}

TrainingModels make_training_models(Context& ctx, const RunConfig& config) {
  const auto backend = make_attention_backend(ctx, config);  // before the weights: its errors come at once
  TrainingModels models =
      config.kind == RunKind::distill ? make_distill_models(ctx, config) : make_teach_models(ctx, config);
  if (models.teacher) set_attention_backend(models.teacher->vlm, backend);
  set_attention_backend(models.vlm, backend);
  return models;
}

Trainer::Setup trainer_setup(Runtime& runtime, const RunConfig& config, const TrainingModels& models,
                             const RecomputeSpec& recompute) {
  Trainer::Setup setup;
  setup.ctx = &runtime.ctx();
  setup.host = &runtime.host();
  setup.device = &runtime.device_comm();
  setup.models.teacher = models.teacher ? &models.teacher->vlm : nullptr;
  setup.models.student = &models.vlm;
  setup.models.dtype = config.precision;
  setup.models.recompute = recompute;
  setup.models.max_length = config.data.max_length;
  for (const auto& p : models.weights.store().parameters()) {
    setup.models.vision_trained = setup.models.vision_trained || p->name.starts_with("vision_tower.");
  }
  setup.store = &models.weights.store();
  setup.loss = training_loss(config);
  setup.optimizer = config.optimizer;
  setup.schedule = config.schedule;
  setup.cuda_graph = config.train.cuda_graph;
  return setup;
}

MicroBatch to_micro_batch(Batch batch) {
  MicroBatch out;
  out.n_images = batch.n_images();
  out.image_size = batch.image_size;
  out.images = std::move(batch.images);
  out.rows.ids = std::move(batch.input_ids);
  out.rows.labels = std::move(batch.labels);
  out.rows.cu = std::move(batch.cu_seqlens);
  out.rows.image_of_row = std::move(batch.image_of_row);
  out.rows.sequences = std::move(batch.sequences);
  return out;
}

TrainingRun::TrainingRun(Process& process, const RunConfig& config, RunDirectory::Start start)
    : config_(config),
      runtime_(process, config.device, config.precision),
      directory_(process.host(), config.run.dir, start),
      models_(make_training_models(runtime_.ctx(), config)),
      train_(config.data.train.paths, expectation(config, models_)),
      checkpoints_(config.run.dir, config.train.keep) {
  process.log_to(directory_.log_file());
  runtime_.ctx().allocator()->set_limit(config.run.memory_limit.bytes);
  if (!config.data.heldout.empty()) heldout_.emplace(config.data.heldout.paths, expectation(config, models_));
  state_.kind = config.kind == RunKind::distill ? "distill" : "teach";
  state_.seed = config.run.seed;
  state_.fingerprints = fingerprints();
  if (start == RunDirectory::Start::resume) restore();
  state_.ranks = runtime_.host().size();
  on_rank_zero(runtime_.host(), [&] { write_file_atomic(directory_.config_file(), config_yaml(config_)); });

  const RecomputeSpec recompute = choose_recompute(config, longest_rows());
  trainer_ = std::make_unique<Trainer>(trainer_setup(runtime_, config, models_, recompute));

  LoaderOptions options;
  options.division = {config.batch.size, config.batch.micro, runtime_.host().size()};
  options.rank = runtime_.host().rank();
  options.seed = static_cast<uint64_t>(config.run.seed);
  options.start = state_.samples;
  options.depth = config.data.prefetch;
  options.threads = config.data.threads;
  options.cache_bytes = config.data.cache_mib << 20;
  options.preprocess = preprocess_for(config, models_);
  loader_ = std::make_unique<Loader>(train_, options);
  if (runtime_.host().rank() == 0) {
    metrics_ = std::make_unique<MetricsLog>(directory_.metrics_file(), state_.update, state_.evaluated_update,
                                            config.schedule.total);
  }
  log_info(runtime_.description());
  log_info(cat("data: ", train_.size(), " samples", heldout_ ? cat(", ", heldout_->size(), " held out") : ""));
  log_info(cat("model: ", describe(models_)));
  log_info(cat("recompute: ", recompute_text(recompute, models_.config.text.layers)));
}

std::map<std::string, std::string> TrainingRun::fingerprints() const {
  std::map<std::string, std::string> out;
  std::string& packs = out["data.train"];
  for (const PackFile& pack : train_.packs()) packs += (packs.empty() ? "" : " ") + file_fingerprint(pack.path());
  if (config_.kind == RunKind::teach) {
    out["teach.tokenizer"] = file_fingerprint(config_.teach.tokenizer);
    return out;
  }
  const TensorSource teacher = TensorSource::open(config_.teacher.path);
  std::map<std::string, std::string> files;
  for (const std::string& name : teacher.names()) files[teacher.file_of(name)] = "";
  for (auto& [file, fingerprint] : files) fingerprint = file_fingerprint(file);
  for (const auto& [file, fingerprint] : files) {
    out["teacher." + std::filesystem::path(file).filename().string()] = fingerprint;
  }
  return out;
}

void TrainingRun::restore() {
  const auto found = find_latest_checkpoint(runtime_.host(), checkpoints_);
  if (!found) {
    // Ended before its first checkpoint: the start is a function of the config, so the run begins again.
    log_info("no checkpoint yet: the run starts from the beginning");
    return;
  }
  const std::string dir = checkpoints_.directory_of(found->update);
  std::string differences;
  for (const auto& [key, value] : found->state.fingerprints) {
    const auto now = state_.fingerprints.find(key);
    if (now == state_.fingerprints.end() || now->second != value) {
      differences +=
          cat("; ", key, ": found ", now == state_.fingerprints.end() ? "nothing" : now->second, ", expected ", value);
    }
  }
  check(differences.empty(), dir, ": the files that the run began with have changed", differences);
  load_checkpoint(runtime_.ctx(), models_.weights.store(), dir);
  const auto fingerprints = state_.fingerprints;
  state_ = found->state;
  state_.fingerprints = fingerprints;
  saved_update_ = state_.update;
  log_info(cat("resumed from ", dir, ": update ", state_.update, ", ", state_.samples, " samples"));
}

std::vector<MicroBatch> TrainingRun::next_update() {
  std::vector<MicroBatch> out;
  for (bool last = false; !last;) {
    LoadedBatch loaded = loader_->next();
    last = loaded.last;
    if (loaded.batch.rows() > 0) out.push_back(to_micro_batch(std::move(loaded.batch)));
  }
  return out;
}

MemoryRequest TrainingRun::longest_rows() {
  const bool distill = config_.kind == RunKind::distill;
  const StudentConfig student = distill ? resolved_student(config_, models_.teacher->config) : StudentConfig();
  MemoryRequest request =
      memory_request(config_, distill ? &models_.teacher->config : nullptr, models_.config, student);
  request.device = runtime_.ctx().device().type;
  return request;
}

void TrainingRun::within_memory(const std::function<void()>& action) {
  try {
    action();
  } catch (const OutOfMemory& e) {
    // Without a limit of its own the device's size is one; what the allocator had got is close to it.
    const MemoryStats stats = runtime_.ctx().allocator()->stats();
    fail(e.what(), "; ", memory_advice(longest_rows(), stats.limit > 0 ? stats.limit : stats.reserved));
  }
}

double TrainingRun::eta() const {
  if (samples_per_second_ <= 0) return std::numeric_limits<double>::quiet_NaN();
  return static_cast<double>(config_.schedule.total - state_.samples) / samples_per_second_;
}

void TrainingRun::report(const UpdateReport& update, double seconds, double waited) {
  seconds_ += seconds;
  waited_ += waited;
  comm_waited_ += update.comm_wait;
  ++updates_;
  tokens_ += update.tokens;
  samples_ += update.counts.samples;
  const bool last = state_.samples >= config_.schedule.total;
  if (state_.update % config_.train.log_every != 0 && !last) return;
  samples_per_second_ = static_cast<double>(samples_) / seconds_;
  if (metrics_) {
    StepMetrics m;
    m.step = state_.update;
    m.samples = state_.samples;
    m.losses.emplace_back("total", update.terms.total);
    if (models_.teacher) {
      if (config_.loss.logit != LogitLossKind::none) m.losses.emplace_back("logit", update.terms.logit);
      if (config_.loss.layer != LayerLossKind::none) m.losses.emplace_back("layer", update.terms.layer);
      if (update.terms.agree_of > 0) m.losses.emplace_back("agree", update.terms.agree / update.terms.agree_of);
    }
    m.losses.emplace_back("ce", update.terms.ce);
    m.grad_norm = update.grad_norm;
    m.lr = update.lr;
    m.tokens_per_second = static_cast<double>(tokens_) / seconds_;
    m.memory_bytes = runtime_.ctx().allocator()->stats().peak;
    m.data_wait = waited_ / seconds_;
    m.comm_wait_ms = 1000 * comm_waited_ / static_cast<double>(updates_);
    m.eta_seconds = eta();
    metrics_->step(m);
  }
  seconds_ = waited_ = comm_waited_ = 0;
  tokens_ = samples_ = updates_ = 0;
}

bool TrainingRun::evaluation_due() const {
  const int64_t every = config_.train.eval_every;
  if (!heldout_ || every == 0 || state_.update == state_.evaluated_update) return false;
  return state_.update % every == 0 || state_.samples >= config_.schedule.total;
}

void TrainingRun::evaluate() {
  const int64_t wanted = config_.train.eval_samples;
  const int64_t n = wanted > 0 ? std::min(wanted, heldout_->size()) : heldout_->size();
  const ImagePreprocess how = preprocess_for(config_, models_);
  const int64_t ranks = runtime_.host().size();
  LossTerms sum;
  double samples = 0, positions = 0, answers = 0;
  // In groups of one micro-batch a rank, so that a large set needs no more memory than training does.
  for (int64_t begin = 0; begin < n; begin += ranks * config_.batch.micro) {
    const int64_t rows = std::min(ranks * config_.batch.micro, n - begin);
    const BatchDivision division{rows, config_.batch.micro, ranks};
    const RowRange own = division.rank_rows(runtime_.host().rank());
    std::vector<MicroBatch> batches;
    if (own.size() > 0) {
      std::vector<int64_t> indices;
      for (int64_t i = own.begin; i < own.end; ++i) indices.push_back(begin + i);
      batches.push_back(to_micro_batch(make_batch(*heldout_, indices, how)));
    }
    const Trainer::Evaluation part = trainer_->evaluate(batches);
    // A group's terms are means over its own samples, positions or answers: weight them back.
    const bool per_token = config_.loss.reduction == Reduction::per_token;
    const auto weight = static_cast<double>(per_token ? part.counts.positions : part.counts.samples);
    sum.logit += weight * part.terms.logit;
    sum.layer += weight * part.terms.layer;
    sum.ce += static_cast<double>(part.counts.answers) * part.terms.ce;
    sum.agree += part.terms.agree;
    sum.agree_of += part.terms.agree_of;
    sum.correct += part.terms.correct;
    sum.correct_of += part.terms.correct_of;
    samples += static_cast<double>(part.counts.samples);
    positions += static_cast<double>(part.counts.positions);
    answers += static_cast<double>(part.counts.answers);
  }
  const double denominator = config_.loss.reduction == Reduction::per_token ? positions : samples;
  const double logit = sum.logit / denominator;
  const double layer = sum.layer / denominator;
  const double ce = answers > 0 ? sum.ce / answers : 0.0;
  const double total = models_.teacher ? config_.loss.logit_weight * logit + config_.loss.layer_weight * layer +
                                             config_.loss.ce_weight * ce
                                       : ce;
  const double agree = sum.agree_of > 0 ? sum.agree / sum.agree_of : 0.0;
  const double correct = sum.correct_of > 0 ? sum.correct / sum.correct_of : 0.0;
  check(std::isfinite(total), "update ", state_.update, ": the held-out loss is ", total,
        "; this update was not saved, the last checkpoint is as it was");
  const bool best = !state_.evaluated || -total > state_.best_score;
  state_.evaluated_update = state_.update;
  if (best) {
    state_.evaluated = true;
    state_.best_score = -total;
    state_.best_update = state_.update;
  }
  log_info(cat("held out, update ", state_.update, ": total ", total, ", ce ", ce,
               heldout_->is_text() ? cat(", perplexity ", std::exp(ce)) : "", ", answer tokens right ", 100.0 * correct,
               " %", models_.teacher ? cat(", arg max agrees ", 100.0 * agree, " %") : "",
               best ? ", best so far" : ""));
  if (metrics_) {
    metrics_->event("eval", state_.update,
                    {{"total", total},
                     {"logit", logit},
                     {"layer", layer},
                     {"ce", ce},
                     {"agree", agree},
                     {"answer_tokens", correct}});
  }
  if (!best) return;
  saved_update_ = -1;  // also where a checkpoint without this evaluation is there
  save();
}

void TrainingRun::save() {
  if (saved_update_ == state_.update) return;
  save_checkpoint(runtime_.host(), checkpoints_, runtime_.ctx(), models_.weights.store(), state_, config_yaml(config_));
  saved_update_ = state_.update;
}

int TrainingRun::run() {
  Comm& host = runtime_.host();
  Watchdog watchdog(
      std::chrono::seconds(config_.train.watchdog_seconds), [&] { return runtime_.device_comm().async_error(); },
      [&](const std::string& reason) {
        log_error(cat("watchdog: ", reason));
        host.abort(1);
      });
  // A signal can come between an update and its evaluation.
  if (evaluation_due()) evaluate();
  watchdog.heartbeat();
  bool stopped = false;
  const auto prepare = [&] { return trainer_->prepare([&] { return next_update(); }); };
  Trainer::Prepared next;
  if (state_.samples < config_.schedule.total) next = prepare();
  while (state_.samples < config_.schedule.total && !stopped) {
    const Clock::time_point start = Clock::now();
    within_memory([&] { trainer_->begin(next, state_.update + 1, state_.samples); });
    // While the device computes; a batch that is not used, because the run is stopped, is made again when it resumes.
    next = {};
    if (state_.samples + config_.batch.size < config_.schedule.total) next = prepare();
    within_memory([&] { trainer_->look_ahead(next); });
    const UpdateReport update = trainer_->finish();
    ++state_.update;
    state_.samples += config_.batch.size;
    state_.cursor = state_.samples % train_.size();
    state_.epoch = state_.samples / train_.size();
    report(update, seconds_since(start), loader_->take_wait_seconds());
    watchdog.heartbeat();

    const bool last = state_.samples >= config_.schedule.total;
    stopped = stop_agreed(host);
    if (!stopped && evaluation_due()) {
      evaluate();
      watchdog.heartbeat();
    }
    if (state_.update % config_.train.checkpoint_every == 0 || last || stopped) save();
    watchdog.heartbeat();
  }
  if (const StepGraphs& graphs = trainer_->graphs(); graphs.recorded() > 0) {
    log_info(
        cat(graphs.recorded(), " kinds of steps were recorded, ", graphs.replayed(), " steps launched as CUDA graphs"));
  }
  if (stopped) {
    log_info(cat("stopped by a signal after update ", state_.update, "; `matvlm resume ", directory_.path(),
                 "` goes on from there"));
  } else {
    log_info(cat("done: ", state_.update, " updates, ", state_.samples, " samples"));
  }
  return 0;
}

}  // namespace matvlm
