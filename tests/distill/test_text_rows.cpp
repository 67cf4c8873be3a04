// Language models without pictures: texts that share a row have the same losses and gradients as texts in rows of
// their own; a head that is the embedding.
#include <gtest/gtest.h>

#include <map>

#include "autograd/ops/head_loss.h"
#include "distill/generate.h"
#include "tests/support/op_check.h"
#include "tests/support/tiny_model.h"

namespace matvlm::testing {
namespace {

Context& ctx() {
  static const std::unique_ptr<Context> context = make_cpu_context(2);
  return *context;
}

MicroBatch text_batch(const std::vector<int64_t>& rows, const std::vector<int64_t>& texts) {
  MicroBatch batch;
  for (int64_t i = 0; i < rows.back(); ++i) {
    batch.rows.ids.push_back(static_cast<int32_t>((7 * i * i + 3 * i) % 30));
  }
  batch.rows.labels = batch.rows.ids;
  batch.rows.cu = rows;
  batch.rows.image_of_row.assign(rows.size() - 1, -1);
  batch.rows.sequences = texts;
  return batch;
}

struct Result {
  LossTerms terms;
  std::vector<std::vector<float>> gradients;
};

Result run(const TinyModels& models, const LossConfig& loss, const MicroBatch& batch) {
  begin_poisoned(ctx(), models.store());
  const SplicedRows rows = splice_for(models.models(), batch);
  Result out;
  out.terms = run_micro_batch(ctx(), models.models(), loss, batch, rows, count_rows(rows, loss.positions), true);
  settle_all(ctx(), models.store());
  out.gradients = gradients(ctx(), models.store());
  return out;
}

TEST(TextRows, PerTokenLossesDoNotDependOnWhoSharesARow) {
  const auto models = make_tiny_llama(ctx(), tiny_student());
  LossConfig loss;
  loss.reduction = Reduction::per_token;
  loss.ce_weight = 0.5;
  loss.layer_at = LayerLossAt::block;
  const std::vector<int64_t> texts = {0, 4, 9, 10, 17};
  const Result own = run(*models, loss, text_batch(texts, {}));
  const Result shared = run(*models, loss, text_batch({0, 9, 17}, texts));
  EXPECT_EQ(own.terms.correct_of, shared.terms.correct_of);
  EXPECT_NEAR(own.terms.logit, shared.terms.logit, 1e-6 * own.terms.logit);
  EXPECT_NEAR(own.terms.layer, shared.terms.layer, 1e-6 * own.terms.layer);
  EXPECT_NEAR(own.terms.ce, shared.terms.ce, 1e-6 * own.terms.ce);
  for (size_t i = 0; i < own.gradients.size(); ++i) {
    EXPECT_LE(relative_error(shared.gradients[i], own.gradients[i]), 1e-6) << i;
  }
  // Without the boundaries the later texts see the earlier ones.
  const Result mixed = run(*models, loss, text_batch({0, 9, 17}, {}));
  EXPECT_GT(std::abs(mixed.terms.layer - own.terms.layer), 1e-3 * own.terms.layer);
}

TEST(TextRows, ARowIsOneSampleOfThePublishedReduction) {
  const auto models = make_tiny_llama(ctx(), tiny_student());
  LossConfig loss;
  const Result own = run(*models, loss, text_batch({0, 9, 17}, {0, 4, 9, 17}));
  LossConfig token = loss;
  token.reduction = Reduction::per_token;
  const Result mean = run(*models, token, text_batch({0, 9, 17}, {0, 4, 9, 17}));
  // Sum over positions, mean over the two rows.
  EXPECT_NEAR(own.terms.logit, mean.terms.logit * 17 / 2, 1e-5 * own.terms.logit);
}

// Attention and Mamba layers between sequential residuals: what is generated token by token is the arg max of whole
// passes.
TEST(TextRows, AHybridGeneratesWhatWholePassesSay) {
  for (const int64_t kv_heads : {1, 2, 4}) {
    const auto models = make_tiny_llama(ctx(), tiny_student(), kv_heads);
    TokenRows prompts;
    prompts.ids = {3, 1, 4, 1, 5, 9, 2};
    prompts.cu = {0, 3, 7};
    prompts.image_of_row = {-1, -1};
    GenerateOptions options;
    options.max_new_tokens = 8;
    const auto answers = generate_tokens(ctx(), models->student, prompts, Tensor(), DType::f32, options);
    for (size_t b = 0; b < 2; ++b) {
      std::vector<int32_t> ids(prompts.ids.begin() + prompts.cu[b], prompts.ids.begin() + prompts.cu[b + 1]);
      ASSERT_EQ(answers[b].size(), 8U);
      for (const int32_t token : answers[b]) {
        Graph g(ctx(), false);
        const auto n = static_cast<int64_t>(ids.size());
        const LanguageModel& text = models->student.text;
        const Var h = run_text(g, text, run_embedding(g, text, Var(), {ids, {}, {0, n}}), make_pass(ctx(), {0, n}));
        const Tensor logits = head_logits(ctx(), h.value(), text.head.weight.value, text.head.bias.value);
        ASSERT_EQ(argmax_rows(ctx(), logits).back(), token) << "row " << b << ", " << kv_heads << " key/value heads";
        ids.push_back(token);
      }
    }
  }
}

// A trained embedding that is the head as well gets both gradients: that of a model whose head is another tensor with
// the same values, added up.
TEST(TiedHead, TheTrainedEmbeddingGetsBothGradients) {
  StudentConfig student = tiny_student();
  student.trainable = {"*embed_tokens*", "*lm_head*"};
  const ValueSource tied_values = tiny_values(tiny_llama_config());
  const ValueSource values = [&](const std::string& name) {
    return tied_values(name == "language_model.lm_head.weight" ? "language_model.model.embed_tokens.weight" : name);
  };
  std::map<std::string, std::vector<float>> found[2];
  for (const bool tied : {true, false}) {
    ModelConfig config = tiny_llama_config();
    config.text.tied_head = tied;
    config.mamba.ssm_layers = student.ssm_layers;
    const ValueSource all = [&](const std::string& name) {
      for (const int64_t layer : student.ssm_layers) {
        for (const ModelTensor& t : mamba_tensors(config, layer)) {
          if (t.name == name) return init_mamba_tensor(config, layer, t, &values, 5);
        }
      }
      return values(name);
    };
    StudentConfig trained = student;
    if (tied) trained.trainable = {"*embed_tokens*"};
    const ModelWeights weights = make_weights(
        ctx(), config, DType::f32, [&](const std::string& name) { return is_trained(trained, name); }, all);
    const Vlm model = make_vlm(weights, config);
    Models models;
    models.student = &model;
    LossConfig loss;
    loss.logit = LogitLossKind::none;
    loss.layer = LayerLossKind::none;
    loss.ce_weight = 1.0;
    const MicroBatch batch = text_batch({0, 9, 17}, {0, 4, 9, 17});
    begin_poisoned(ctx(), weights.store());
    const SplicedRows rows = splice_for(models, batch);
    std::map<std::string, int> finished;
    run_micro_batch(ctx(), models, loss, batch, rows, count_rows(rows, loss.positions), true,
                    [&](Parameter& p) { ++finished[p.name]; });
    for (const auto& [name, count] : finished) EXPECT_EQ(count, 1) << name;
    for (const auto& p : weights.store().parameters()) found[tied ? 0 : 1][p->name] = p->grad.to_floats(ctx());
  }
  const std::string embed = "language_model.model.embed_tokens.weight";
  std::vector<float> sum = found[1].at(embed);
  const std::vector<float>& head = found[1].at("language_model.lm_head.weight");
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += head[i];
  EXPECT_LE(relative_error(found[0].at(embed), sum), 1e-6);
  for (const auto& [name, gradient] : found[0]) {
    if (name == embed) continue;
    EXPECT_EQ(gradient, found[1].at(name)) << name;
  }
}

}  // namespace
}  // namespace matvlm::testing
