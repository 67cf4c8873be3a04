// The layers in which a run recomputes, as its config and its memory say.
#include "launch/memory_advice.h"

#include <gtest/gtest.h>

#include "tests/support/errors.h"
#include "tests/support/tiny_model.h"

namespace matvlm::testing {
namespace {

constexpr int64_t kLayers = 4;  // of the tiny models

std::vector<int64_t> layers_of(const RecomputeSpec& spec, int64_t n) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < n; ++i) {
    if (spec.at(i) == spec.what) out.push_back(i);
  }
  return out;
}

TEST(RecomputeSpec, SpreadsItsLayersEvenly) {
  using List = std::vector<int64_t>;
  EXPECT_EQ(layers_of({Recompute::mlp}, 4), (List{0, 1, 2, 3}));
  EXPECT_EQ(layers_of({Recompute::mlp, 3}, 7), (List{0, 3, 6}));
  EXPECT_EQ(layers_of({Recompute::mlp, 1, 0, 4}, 4), List());
  EXPECT_EQ(layers_of({Recompute::mlp, 1, 1, 4}, 4), (List{3}));
  EXPECT_EQ(layers_of({Recompute::mlp, 1, 2, 5}, 5), (List{2, 4}));
  for (int64_t of = 1; of <= 40; ++of) {
    for (int64_t n = 0; n <= of; ++n) {
      const List found = layers_of({Recompute::blocks, 1, n, of}, of);
      ASSERT_EQ(static_cast<int64_t>(found.size()), n) << n << " of " << of;
      EXPECT_EQ((RecomputeSpec{Recompute::blocks, 1, n, of}.count(of)), n);
      for (size_t i = 1; i < found.size(); ++i) {
        const int64_t gap = found[i] - found[i - 1];
        EXPECT_TRUE(gap == of / n || gap == of / n + 1) << gap << " in " << n << " of " << of;
      }
    }
  }
}

// A request and a config for tiny models with `what` recomputed in as many layers as `wanted` says.
struct TinyRun {
  MemoryRequest request;
  RunConfig config;

  explicit TinyRun(Recompute what, RecomputeLayers wanted = {RecomputeLayers::Kind::automatic, 0}) {
    const StudentConfig student = tiny_student();
    request.teacher = tiny_config();
    request.student = student_config(*request.teacher, student);
    request.trained = [student](const std::string& name) { return is_trained(student, name); };
    request.dtype = DType::bf16;
    request.batch = 3;
    request.length = 60;
    config.train.recompute = what;
    config.train.recompute_layers = wanted;
  }
  // Of n layers that recompute.
  MemoryPlan plan(int64_t n) const {
    MemoryRequest with = request;
    with.recompute = {config.train.recompute, 1, n, kLayers};
    return plan_memory(with);
  }
  RecomputeSpec choose(int64_t limit) {
    config.run.memory_limit.bytes = limit;
    return choose_recompute(config, request);
  }
};

constexpr Recompute kModes[] = {Recompute::mlp, Recompute::mixers, Recompute::blocks};

TEST(ChooseRecompute, MoreLayersTakeLess) {
  for (const Recompute what : kModes) {
    const TinyRun run(what);
    for (int64_t n = 1; n <= kLayers; ++n) {
      EXPECT_LE(run.plan(n).peak, run.plan(n - 1).peak) << n << " layers, mode " << static_cast<int>(what);
      EXPECT_LE(run.plan(n).reserved, run.plan(n - 1).reserved) << n << " layers, mode " << static_cast<int>(what);
    }
    EXPECT_LT(run.plan(kLayers).peak, run.plan(0).peak);
    EXPECT_LT(run.plan(kLayers).reserved, run.plan(0).reserved);
  }
}

TEST(ChooseRecompute, TheFewestThatFit) {
  for (const Recompute what : kModes) {
    SCOPED_TRACE(cat("mode ", static_cast<int>(what)));
    TinyRun run(what);
    for (int64_t n = 0; n <= kLayers; ++n) {
      for (const int64_t less : {0, 1}) {
        const int64_t limit = run.plan(n).reserved - less;
        int64_t expected = 0;
        while (expected < kLayers && run.plan(expected).reserved > limit) ++expected;
        EXPECT_EQ(run.choose(limit).count(kLayers), expected) << n << " layers' memory less " << less;
        if (less == 0) {
          EXPECT_LE(expected, n);
        }
      }
    }
    // Blocks that come and go with every step, but a step that fits.
    const int64_t least = run.plan(kLayers).peak;
    ASSERT_LT(least, run.plan(kLayers).reserved);
    EXPECT_EQ(run.choose(least).count(kLayers), kLayers);
    EXPECT_TRUE(contains(error_of([&] { run.choose(least - 1); }), "key 'train.recompute_layers': found auto, but"))
        << least;
  }
}

TEST(ChooseRecompute, SaysWhatDoesNotFitAndWhatWould) {
  TinyRun run(Recompute::mlp);
  const int64_t limit = TinyRun(Recompute::blocks).plan(kLayers).peak;
  const std::string message = error_of([&] { run.choose(limit); });
  EXPECT_TRUE(contains(message, "recompute mlp in 4 of 4 layers takes about ")) << message;
  EXPECT_TRUE(contains(message, ", expected at most run.memory_limit = ")) << message;
  EXPECT_TRUE(contains(message, "train.recompute=blocks takes about ")) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  TinyRun none(Recompute::none);
  EXPECT_TRUE(contains(error_of([&] { none.choose(limit); }), "recompute none takes about ")) << limit;
  EXPECT_EQ(none.choose(none.plan(0).reserved).count(kLayers), 0);
}

TEST(ChooseRecompute, ANumberIsTakenAsItIs) {
  const auto spec = [](int64_t n) { return TinyRun(Recompute::mixers, {RecomputeLayers::Kind::number, n}).choose(0); };
  EXPECT_EQ(layers_of(spec(2), kLayers), (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(recompute_text(spec(2), kLayers), "mixers in 2 of 4 layers");
  EXPECT_EQ(recompute_text(spec(0), kLayers), "none");
  EXPECT_EQ(error_of([&] { spec(5); }),
            "key 'train.recompute_layers': found 5, expected at most the language model's 4 layers");
  TinyRun every(Recompute::mixers, {});
  every.config.train.recompute_every = 2;
  EXPECT_EQ(layers_of(every.choose(0), kLayers), (std::vector<int64_t>{0, 2}));
}

}  // namespace
}  // namespace matvlm::testing
