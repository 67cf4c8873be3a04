// Language models without pictures: texts that share a row have the same losses and gradients as texts in rows of
// their own; a head that is the embedding.
#include <gtest/gtest.h>

#include <map>

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
  models.store().zero_grad(ctx());
  const SplicedRows rows = splice_for(models.models(), batch);
  Result out;
  out.terms = run_micro_batch(ctx(), models.models(), loss, batch, rows, count_rows(rows, loss.positions), true);
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
    weights.store().zero_grad(ctx());
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
