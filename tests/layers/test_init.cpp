// Start values: attention-to-Mamba initialisation exactly (method section 2), ranges of what is random, and that values
// depend on seed and name alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "layers/init.h"
#include "tests/support/tiny_model.h"

namespace matvlm::testing {
namespace {

constexpr uint64_t kSeed = 11;

struct Mixer {
  ModelConfig config;
  ValueSource teacher;
  std::string prefix = "language_model.model.layers.2.";

  explicit Mixer(int64_t kv_heads, bool is_bias = false) : config(tiny_config(kv_heads)) {
    teacher = tiny_values(config);
    config.mamba.ssm_layers = {0, 2};
    config.mamba.is_bias = is_bias;
  }
  std::vector<float> init(const std::string& part, bool from_attention = true, uint64_t seed = kSeed) const {
    for (const ModelTensor& t : mamba_tensors(config, 2)) {
      if (t.name == prefix + "mamba." + part) {
        return init_mamba_tensor(config, 2, t, from_attention ? &teacher : nullptr, seed);
      }
    }
    throw Error("no tensor " + part);
  }
  std::vector<float> attention(const std::string& part) const { return teacher(prefix + "self_attn." + part); }
};

std::vector<float> rows(const std::vector<float>& values, int64_t begin, int64_t end, int64_t columns) {
  return {values.begin() + begin * columns, values.begin() + end * columns};
}

void expect_within(const std::vector<float>& values, double low, double high, const std::string& what) {
  ASSERT_FALSE(values.empty()) << what;
  for (const float v : values) {
    ASSERT_GE(static_cast<double>(v), low) << what;
    ASSERT_LE(static_cast<double>(v), high) << what;
  }
}

// Spread over the whole range [low, high]: of many uniform values the smallest and largest come near to the ends, and
// the mean to the middle (four standard errors of a uniform mean).
void expect_uniform(const std::vector<float>& values, double low, double high, const std::string& what) {
  expect_within(values, low, high, what);
  const auto n = static_cast<double>(values.size());
  double mean = 0;
  for (const float v : values) mean += static_cast<double>(v) / n;
  EXPECT_NEAR(mean, 0.5 * (low + high), 4 * (high - low) / std::sqrt(12 * n)) << what;
  const auto [smallest, largest] = std::minmax_element(values.begin(), values.end());
  const double end = (high - low) * 7 / n;  // missed with probability e^-7
  EXPECT_LT(static_cast<double>(*smallest), low + end) << what;
  EXPECT_GT(static_cast<double>(*largest), high - end) << what;
}

// in_proj rows: z 32 | x K*8 | B K*8 | C 32 | dt 4.
void expect_in_proj(const Mixer& m, const std::string& kind, int64_t columns) {
  const int64_t group = m.config.text.kv_heads * 8;
  const std::vector<float> in_proj = m.init("in_proj" + kind);
  ASSERT_EQ(static_cast<int64_t>(in_proj.size()), (32 + 2 * group + 32 + 4) * columns);
  int64_t row = 32;
  EXPECT_EQ(rows(in_proj, row, row + group, columns), m.attention("v_proj" + kind)) << "x <- W_v";
  row += group;
  EXPECT_EQ(rows(in_proj, row, row + group, columns), m.attention("k_proj" + kind)) << "B <- W_k";
  row += group;
  EXPECT_EQ(rows(in_proj, row, row + 32, columns), m.attention("q_proj" + kind)) << "C <- W_q";
  row += 32;
  const double bound = 1 / std::sqrt(32.0);
  expect_within(rows(in_proj, 0, 32, columns), -bound, bound, "z");
  expect_within(rows(in_proj, row, row + 4, columns), -bound, bound, "dt");
  EXPECT_EQ(m.init("out_proj" + kind), m.attention("dense" + kind));
}

TEST(MambaInit, ProjectionsAreTheAttentions) {
  for (const int64_t kv_heads : {4, 2, 1}) {
    SCOPED_TRACE(kv_heads);
    expect_in_proj(Mixer(kv_heads), ".weight", 32);
    expect_in_proj(Mixer(kv_heads, true), ".weight", 32);
    expect_in_proj(Mixer(kv_heads, true), ".bias", 1);
  }
}

TEST(MambaInit, RandomPartsFillTheirRanges) {
  const Mixer m(2);
  const double bound = 1 / std::sqrt(32.0);
  const std::vector<float> in_proj = m.init("in_proj.weight");
  expect_uniform(rows(in_proj, 0, 32, 32), -bound, bound, "z");
  expect_uniform(rows(in_proj, 96, 100, 32), -bound, bound, "dt");
  expect_uniform(m.init("conv1d.weight"), -0.5, 0.5, "conv1d.weight");
  expect_uniform(m.init("conv1d.bias"), -0.5, 0.5, "conv1d.bias");
  // Without attention everything is random.
  expect_uniform(m.init("in_proj.weight", false), -bound, bound, "in_proj at random");
  expect_uniform(m.init("out_proj.weight", false), -bound, bound, "out_proj at random");
}

TEST(MambaInit, ScalarsOfTheHeads) {
  Mixer m(2);
  m.config.text.heads = 400;  // enough heads to see the distributions
  m.config.text.kv_heads = 400;
  std::vector<float> a = m.init("A_log");
  ASSERT_EQ(a.size(), 400U);
  for (float& v : a) v = std::exp(v);
  expect_uniform(a, 1.0 - 1e-6, 16.0 + 1e-5, "exp(A_log)");  // float rounding of log and exp
  std::vector<float> dt = m.init("dt_bias");
  for (float& v : dt) v = std::log(std::log1p(std::exp(v)));  // log softplus
  expect_uniform(dt, std::log(0.001) - 1e-4, std::log(0.1) + 1e-4, "log softplus(dt_bias)");
  EXPECT_EQ(m.init("D"), std::vector<float>(400, 1.0F));
  EXPECT_EQ(m.init("norm.weight"), std::vector<float>(3200, 1.0F));
  EXPECT_NE(m.init("A_log"), m.init("dt_bias"));
}

TEST(MambaInit, DependsOnSeedAndNameAlone) {
  const Mixer m(2);
  const std::vector<ModelTensor> two = mamba_tensors(m.config, 2);
  std::map<std::string, std::vector<float>> forward, backward;
  for (const ModelTensor& t : two) forward[t.name] = init_mamba_tensor(m.config, 2, t, &m.teacher, kSeed);
  for (auto t = two.rbegin(); t != two.rend(); ++t) {
    backward[t->name] = init_mamba_tensor(m.config, 2, *t, &m.teacher, kSeed);
  }
  EXPECT_EQ(forward, backward);
  EXPECT_NE(m.init("conv1d.bias"), m.init("conv1d.bias", true, kSeed + 1));
  const std::vector<ModelTensor> zero = mamba_tensors(m.config, 0);
  const auto conv = [](const std::vector<ModelTensor>& tensors) {
    return *std::find_if(tensors.begin(), tensors.end(),
                         [](const ModelTensor& t) { return t.name.ends_with("conv1d.bias"); });
  };
  EXPECT_NE(init_mamba_tensor(m.config, 0, conv(zero), &m.teacher, kSeed), m.init("conv1d.bias"));
  // The random rows of in_proj are the same whether the others are copied or not.
  EXPECT_EQ(rows(m.init("in_proj.weight"), 0, 32, 32), rows(m.init("in_proj.weight", false), 0, 32, 32));
}

// Llama's attention has no biases, Qwen2's has none behind the mixer: what cannot be copied is 0, as it is there.
TEST(MambaInit, BiasesThatTheAttentionLacksAreZero) {
  Mixer m(2, true);
  m.config.text.model_type = "llama";
  m.config.text.block = {false, NormKind::rms_norm, MlpKind::swiglu, false, false, false};
  const ValueSource all = tiny_values(tiny_config(2));
  m.teacher = [all](const std::string& name) {
    return all(name.ends_with(".o_proj.weight") ? name.substr(0, name.size() - 13) + "dense.weight" : name);
  };
  const std::vector<float> bias = m.init("in_proj.bias");
  EXPECT_EQ(rows(bias, 32, 96, 1), std::vector<float>(64, 0.0F));  // x, B, C; z and dt are random
  EXPECT_NE(rows(bias, 0, 32, 1), std::vector<float>(32, 0.0F));
  EXPECT_NE(rows(bias, 96, 100, 1), std::vector<float>(4, 0.0F));
  EXPECT_EQ(m.init("out_proj.bias"), std::vector<float>(32, 0.0F));
  EXPECT_EQ(m.init("out_proj.weight"), m.attention("dense.weight"));
  m.config.text.block.qkv_bias = true;
  EXPECT_EQ(rows(m.init("in_proj.bias"), 64, 96, 1), m.attention("q_proj.bias"));
}

TEST(MambaInit, AttentionThatDoesNotFit) {
  const Mixer m(2);
  const std::vector<ModelTensor> tensors = mamba_tensors(m.config, 2);
  const ValueSource none = [](const std::string&) { return std::vector<float>(); };
  try {
    init_mamba_tensor(m.config, 2, tensors[0], &none, kSeed);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "[init] 'language_model.model.layers.2.self_attn.v_proj.weight': found 0 values, expected 512");
  }
}

double deviation(const std::vector<float>& values) {
  double sum = 0;
  for (const float v : values) sum += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(sum / static_cast<double>(values.size()));
}

TEST(RandomInit, DeviationsOfATransformer) {
  const ModelConfig config = tiny_config();
  for (const ModelTensor& t : model_tensors(config)) {
    const std::vector<float> values = init_random_tensor(config, t, kSeed);
    ASSERT_EQ(static_cast<int64_t>(values.size()), shape_numel(t.shape)) << t.name;
    const int64_t fan_in = shape_numel(t.shape) / t.shape[0];
    double expected = 1 / std::sqrt(static_cast<double>(fan_in));
    if (t.name.ends_with(".bias")) {
      EXPECT_EQ(values, std::vector<float>(values.size(), 0.0F)) << t.name;
      continue;
    }
    if (t.name.find("norm") != std::string::npos) {
      EXPECT_EQ(values, std::vector<float>(values.size(), 1.0F)) << t.name;
      continue;
    }
    if (t.name.ends_with("embed_tokens.weight") || t.name.ends_with("position_embedding.weight")) expected = 0.02;
    // Branches of 4 layers in the language model, of 2 in the tower.
    const bool branch =
        t.name.ends_with("fc2.weight") || t.name.ends_with("dense.weight") || t.name.ends_with("out_proj.weight");
    if (branch) expected /= std::sqrt(t.name.starts_with("vision_tower") ? 4.0 : 8.0);
    // Five standard errors of a deviation measured on n normal values.
    const double tolerance = 5 * expected / std::sqrt(2 * static_cast<double>(values.size()));
    EXPECT_NEAR(deviation(values), expected, tolerance) << t.name;
    EXPECT_EQ(values, init_random_tensor(config, t, kSeed)) << t.name;
    EXPECT_NE(values, init_random_tensor(config, t, kSeed + 1)) << t.name;
  }
}

}  // namespace
}  // namespace matvlm::testing
