#include "launch/eval_perplexity.h"

#include <array>
#include <cmath>
#include <iomanip>
#include <iostream>
#include <optional>
#include <span>

#include "core/file.h"
#include "data/loader.h"
#include "distill/step.h"
#include "launch/training.h"

namespace matvlm {
namespace {

// Sums over tokens.
struct Sums {
  double tokens = 0, loss = 0, right = 0;
  double positions = 0, kl = 0, agree = 0;  // with a teacher

  double perplexity() const { return std::exp(loss / tokens); }
};

// `teacher` may be null. Every denominator is 1, so that the terms are sums.
Sums score(Runtime& runtime, const EvalArgs& args, const Dataset& data, const LoadedModel& model, const Vlm* teacher,
           DType dtype) {
  Models models;
  models.teacher = teacher;
  models.student = &model.vlm;
  models.dtype = dtype;
  models.vision_trained = true;  // the models were loaded one by one: each has its own picture tokens
  models.max_length = data.info().max_length;
  LossConfig loss;
  loss.layer = LayerLossKind::none;
  loss.reduction = Reduction::per_token;
  const ImagePreprocess how = preprocess_of(model.config);
  const int64_t n = args.samples > 0 ? std::min(args.samples, data.size()) : data.size();
  const int64_t stride = args.micro * runtime.host().size();
  std::array<double, 6> sums{};
  for (int64_t begin = args.micro * runtime.host().rank(); begin < n; begin += stride) {
    std::vector<int64_t> indices;
    for (int64_t i = begin; i < std::min(n, begin + args.micro); ++i) indices.push_back(i);
    const MicroBatch batch = to_micro_batch(make_batch(data, indices, how));
    const LossTerms terms =
        run_micro_batch(runtime.ctx(), models, loss, batch, splice_for(models, batch), {1, 1, 1}, false);
    const std::array<double, 6> part = {terms.correct_of, terms.ce,    terms.correct,
                                        terms.agree_of,   terms.logit, terms.agree};
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += part[i];
  }
  runtime.host().all_reduce_sum(std::span<double>(sums));
  return {sums[0], sums[1], sums[2], sums[3], sums[4], sums[5]};
}

void print_row(const std::string& name, const Sums& s, bool compared) {
  std::cout << std::left << std::setw(10) << name << std::right << std::fixed << std::setw(12)
            << static_cast<int64_t>(s.tokens) << std::setw(13) << std::setprecision(4) << s.perplexity()
            << std::setw(13) << s.loss / s.tokens << std::setw(12) << std::setprecision(2) << 100.0 * s.right / s.tokens
            << "%";
  if (compared) {
    std::cout << std::setw(13) << std::setprecision(4) << s.kl / s.positions << std::setw(12) << std::setprecision(2)
              << 100.0 * s.agree / s.positions << "%";
  }
  std::cout << "\n";
}

}  // namespace

int run_perplexity(Runtime& runtime, const EvalArgs& args, const LoadedModel& model, const Dataset& data, DType dtype) {
  std::optional<LoadedModel> teacher;
  if (!args.teacher.empty()) {
    teacher = load_model(runtime.ctx(), args.teacher, dtype);
    check(teacher->config.text.vocab == model.config.text.vocab, args.teacher, ": found a vocabulary of ",
          teacher->config.text.vocab, ", expected the model's ", model.config.text.vocab);
  }
  const Sums own = score(runtime, args, data, model, teacher ? &teacher->vlm : nullptr, dtype);
  check(own.tokens > 0, data.path(), ": found no labels, expected some to predict");
  Sums other;
  if (teacher) other = score(runtime, args, data, *teacher, nullptr, dtype);
  if (runtime.host().rank() != 0) return 0;
  std::cout << std::left << std::setw(10) << "" << std::right << std::setw(12) << "tokens" << std::setw(13)
            << "perplexity" << std::setw(13) << "loss" << std::setw(13) << "next right";
  if (teacher) std::cout << std::setw(13) << "KL" << std::setw(13) << "agree";
  std::cout << "\n";
  if (teacher) print_row("teacher", other, false);
  print_row(teacher ? "student" : "model", own, teacher.has_value());
  if (teacher) {
    std::cout << "perplexity of the student over the teacher's: " << std::setprecision(4)
              << own.perplexity() / other.perplexity() << "\n";
  }
  if (args.json.empty()) return 0;
  Json json = Json::object();
  json.set("model", args.model).set("data", args.data).set("tokens", own.tokens);
  json.set("perplexity", own.perplexity()).set("loss", own.loss / own.tokens);
  json.set("next_token_accuracy", own.right / own.tokens);
  if (teacher) {
    json.set("teacher_perplexity", other.perplexity()).set("teacher_loss", other.loss / other.tokens);
    json.set("ratio", own.perplexity() / other.perplexity());
    json.set("kl", own.kl / own.positions).set("agreement", own.agree / own.positions);
  }
  json.set("parameters", model.weights.numel());
  write_file_atomic(args.json, json.dump(2) + "\n");
  return 0;
}

}  // namespace matvlm
