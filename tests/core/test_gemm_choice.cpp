// The table of chosen algorithms: what finds an entry, and that its entries make sense.
#include "core/gemm_choice.h"

#include <gtest/gtest.h>

#include <functional>
#include <vector>

namespace matvlm {
namespace {

const float kSomething = 0;

GemmArgs known_args() {
  GemmArgs g;
  g.m = 64;
  g.n = 32;
  g.k = 16;
  g.transpose_b = true;
  g.bias = &kSomething;
  g.input = g.output = DType::bf16;
  return g;
}

std::vector<GemmChoice> table_for(const GemmArgs& g) {
  const GemmChoice other = {gemm_key(80, g), {.id = 1}};
  return {other, {gemm_key(90, g), {.id = 66, .tile = 5}}};
}

TEST(GemmChoice, FindsTheEntryOfTheDevice) {
  const GemmArgs g = known_args();
  const std::vector<GemmChoice> table = table_for(g);
  const AlgorithmConfig* found = chosen_algorithm(table, 90, g);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(*found, (AlgorithmConfig{.id = 66, .tile = 5}));
  EXPECT_EQ(chosen_algorithm(table, 89, g), nullptr);
  EXPECT_EQ(chosen_algorithm({}, 90, g), nullptr);
}

// Whatever decides which kernel runs must be part of the key.
TEST(GemmChoice, EveryPartOfTheKeyCounts) {
  const std::vector<GemmChoice> table = table_for(known_args());
  const std::vector<std::function<void(GemmArgs&)>> changes = {
      [](GemmArgs& g) { g.m += 1; },
      [](GemmArgs& g) { g.n += 1; },
      [](GemmArgs& g) { g.k += 1; },
      [](GemmArgs& g) { g.transpose_a = true; },
      [](GemmArgs& g) { g.transpose_b = false; },
      [](GemmArgs& g) { g.bias = nullptr; },
      [](GemmArgs& g) { g.beta = 1.0F; },
      [](GemmArgs& g) { g.epilogue = GemmEpilogue::gelu; },
      [](GemmArgs& g) { g.pre = const_cast<float*>(&kSomething); },
      [](GemmArgs& g) { g.input = DType::f32; },
      [](GemmArgs& g) { g.output = DType::f32; },
      [](GemmArgs& g) { g.pinned = true; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    GemmArgs g = known_args();
    changes[i](g);
    EXPECT_EQ(chosen_algorithm(table, 90, g), nullptr) << "change " << i;
  }
}

// Addresses and strides are not.
TEST(GemmChoice, OperandsDoNotCount) {
  const std::vector<GemmChoice> table = table_for(known_args());
  GemmArgs g = known_args();
  g.a = g.b = &kSomething;
  g.lda = 100;
  g.ldc = 200;
  EXPECT_NE(chosen_algorithm(table, 90, g), nullptr);
}

TEST(GemmChoice, TableMakesSense) {
  const std::span<const GemmChoice> table = gemm_choices();
  for (size_t i = 0; i < table.size(); ++i) {
    const GemmKey& key = table[i].key;
    EXPECT_TRUE(key.m > 0 && key.n > 0 && key.k > 0) << "entry " << i;
    EXPECT_FALSE(key.bias && key.epilogue == GemmEpilogue::gelu_gradient) << "entry " << i;
    EXPECT_FALSE(key.pre && key.epilogue == GemmEpilogue::none) << "entry " << i;
    // 1 sums in place, by atomics: other bits every time. Parts of k need a scheme.
    EXPECT_NE(table[i].config.reduction, 1U) << "entry " << i;
    EXPECT_EQ(table[i].config.split_k > 1, table[i].config.reduction != 0) << "entry " << i;
    for (size_t j = 0; j < i; ++j) EXPECT_FALSE(table[j].key == key) << "entries " << j << " and " << i;
  }
}

}  // namespace
}  // namespace matvlm
