// eval: exact match of generated answers on a pack, by kind of question, and agreement with a teacher's answers; or
// perplexity.
#include <chrono>
#include <iomanip>
#include <iostream>
#include <map>
#include <set>
#include <span>

#include "core/file.h"
#include "core/log.h"
#include "data/eval_set.h"
#include "data/loader.h"
#include "distill/generate.h"
#include "launch/commands.h"
#include "launch/eval_perplexity.h"
#include "launch/model_folder.h"
#include "launch/runtime.h"

namespace matvlm {
namespace {

struct Answers {
  std::vector<std::string> texts;
  double seconds = 0;
  int64_t tokens = 0;  // generated
};

// Prompts of one batch; a picture that several questions share is encoded once.
struct PromptBatch {
  TokenRows rows;
  std::vector<float> pixels;
  int64_t images = 0;
};

PromptBatch prompt_batch(const Dataset& data, const std::vector<EvalQuestion>& questions, const ImagePreprocess& how) {
  PromptBatch out;
  std::map<int64_t, int64_t> index_of;
  out.rows.cu.push_back(0);
  for (const EvalQuestion& q : questions) {
    out.rows.ids.insert(out.rows.ids.end(), q.prompt_ids.begin(), q.prompt_ids.end());
    out.rows.cu.push_back(static_cast<int64_t>(out.rows.ids.size()));
    if (q.image < 0) {
      out.rows.image_of_row.push_back(-1);
      continue;
    }
    const auto [place, fresh] = index_of.emplace(q.image, out.images);
    if (fresh) {
      ++out.images;
      const size_t begin = out.pixels.size();
      out.pixels.resize(begin + static_cast<size_t>(3 * how.size * how.size));
      const Image image = decode_image(data.image_bytes(q.image), cat(data.path(), ": ", data.image_name(q.image)));
      preprocess_image(image, how, out.pixels.data() + begin);
    }
    out.rows.image_of_row.push_back(place->second);
  }
  return out;
}

Answers answer(Context& ctx, const LoadedModel& model, const Tokenizer& tokenizer, const Dataset& data,
               const std::vector<EvalQuestion>& questions, const EvalArgs& args, DType dtype) {
  const ImagePreprocess how = preprocess_of(model.config);
  GenerateOptions options;
  options.max_new_tokens = args.max_new_tokens;
  options.end_token = tokenizer.token_to_id(data.form().end_token).value_or(-1);
  options.other_end_tokens = model.config.text.end_tokens;
  Answers out;
  const auto start = std::chrono::steady_clock::now();
  for (size_t begin = 0; begin < questions.size(); begin += static_cast<size_t>(args.micro)) {
    const size_t end = std::min(questions.size(), begin + static_cast<size_t>(args.micro));
    const PromptBatch batch = prompt_batch(
        data,
        {questions.begin() + static_cast<std::ptrdiff_t>(begin), questions.begin() + static_cast<std::ptrdiff_t>(end)},
        how);
    Tensor image_tokens;
    if (batch.images > 0) image_tokens = encode_images(ctx, model.vlm, batch.pixels, batch.images, dtype);
    for (const auto& ids : generate_tokens(ctx, model.vlm, batch.rows, image_tokens, dtype, options)) {
      out.texts.push_back(tokenizer.decode(ids, true));
      out.tokens += static_cast<int64_t>(ids.size()) + 1;
    }
  }
  ctx.synchronize();
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return out;
}

// Counts of one kind of question.
struct Score {
  double questions = 0, right = 0, agree = 0;
};

std::vector<std::string> categories_of(const EvalSet& set, int64_t n) {
  std::set<std::string> names;
  for (int64_t i = 0; i < n; ++i) names.insert(set.question(i).category);
  return {names.begin(), names.end()};
}

void print_score(const std::string& name, const Score& s, bool teacher) {
  std::cout << std::left << std::setw(12) << (name.empty() ? "(none)" : name) << std::right << std::setw(10)
            << static_cast<int64_t>(s.questions) << std::setw(13) << std::fixed << std::setprecision(1)
            << 100.0 * s.right / s.questions << "%";
  if (teacher) std::cout << std::setw(12) << 100.0 * s.agree / s.questions << "%";
  std::cout << "\n";
}

void show_answers(const std::vector<EvalQuestion>& questions, const Answers& own, int64_t count) {
  for (int64_t i = 0; i < std::min<int64_t>(count, static_cast<int64_t>(questions.size())); ++i) {
    const EvalQuestion& q = questions[static_cast<size_t>(i)];
    std::cout << q.sample_id << "  " << without_image_mark(q.question) << "  " << own.texts[static_cast<size_t>(i)]
              << (exact_match(own.texts[static_cast<size_t>(i)], q.answer) ? "" : cat("  (expected: ", q.answer, ")"))
              << "\n";
  }
}

}  // namespace

int run_eval(Process& process, const EvalArgs& args) {
  const DType dtype = parse_precision(args.precision);
  Runtime runtime(process, parse_device(args.device), dtype);
  Context& ctx = runtime.ctx();
  const LoadedModel model = load_model(ctx, args.model, dtype);
  const Tokenizer tokenizer = load_tokenizer(model);
  PackExpectation expected;
  expected.vocab_size = model.config.text.vocab;
  expected.tokens_per_image = model.config.tokens_per_image();
  expected.text_only = !model.config.vision;
  const Dataset data(args.data, expected);
  if (data.is_text() || args.perplexity) {
    check(data.info().tokenizer_sha256 == tokenizer.sha256(), args.data, ": found tokenizer_sha256 ",
          data.info().tokenizer_sha256, ", expected that of the model's tokenizer, ", tokenizer.sha256());
    return run_perplexity(runtime, args, model, data, dtype);
  }
  const EvalSet set(data, tokenizer, EvalHistory::none);
  const int64_t n = args.samples > 0 ? std::min(args.samples, set.size()) : set.size();
  check(n > 0, args.data, ": no questions to evaluate");

  // Rank r takes every size-th question, so that ranks have the same mix.
  std::vector<EvalQuestion> own;
  for (int64_t i = runtime.host().rank(); i < n; i += runtime.host().size()) own.push_back(set.question(i));
  const Answers answers = answer(ctx, model, tokenizer, data, own, args, dtype);
  std::vector<std::string> teacher;
  if (args.teacher == args.model) {
    teacher = answers.texts;  // greedy answers are the same every time
  } else if (!args.teacher.empty()) {
    const LoadedModel other = load_model(ctx, args.teacher, dtype);
    teacher = answer(ctx, other, load_tokenizer(other), data, own, args, dtype).texts;
  }

  const std::vector<std::string> names = categories_of(set, n);
  std::vector<double> sums(3 * names.size() + 2, 0.0);
  for (size_t i = 0; i < own.size(); ++i) {
    const auto c = static_cast<size_t>(std::lower_bound(names.begin(), names.end(), own[i].category) - names.begin());
    sums[3 * c] += 1;
    sums[3 * c + 1] += exact_match(answers.texts[i], own[i].answer) ? 1 : 0;
    sums[3 * c + 2] += !teacher.empty() && teacher[i] == answers.texts[i] ? 1 : 0;
  }
  sums[3 * names.size()] = answers.seconds > 0 ? static_cast<double>(answers.tokens) / answers.seconds : 0;
  runtime.host().all_reduce_sum(std::span<double>(sums));
  if (runtime.host().rank() != 0) return 0;

  Score all;
  std::cout << std::left << std::setw(12) << "questions" << std::right << std::setw(10) << "count" << std::setw(14)
            << "exact match" << (args.teacher.empty() ? "" : "   as teacher") << "\n";
  Json by_category = Json::object();
  for (size_t c = 0; c < names.size(); ++c) {
    const Score s{sums[3 * c], sums[3 * c + 1], sums[3 * c + 2]};
    all = {all.questions + s.questions, all.right + s.right, all.agree + s.agree};
    print_score(names[c], s, !args.teacher.empty());
    by_category.set(names[c], s.right / s.questions);
  }
  print_score("all", all, !args.teacher.empty());
  show_answers(own, answers, args.show);
  if (!args.json.empty()) {
    Json json = Json::object();
    json.set("model", args.model).set("data", args.data).set("questions", all.questions);
    json.set("exact_match", all.right / all.questions);
    if (!args.teacher.empty()) json.set("agreement", all.agree / all.questions);
    json.set("tokens_per_second", sums[3 * names.size()]).set("parameters", model.weights.numel());
    json.set("by_category", by_category);
    write_file_atomic(args.json, json.dump(2) + "\n");
  }
  return 0;
}

}  // namespace matvlm
