// The parts of an update as the timer sees them: all there, together as long as the update, and the update is the same.
#include <gtest/gtest.h>

#include <chrono>

#include "tests/support/op_check.h"
#include "tests/support/tiny_model.h"

namespace matvlm::testing {
namespace {

void expect_parts(Context& ctx) {
  const auto comms = make_local_comms(1);
  std::vector<std::vector<float>> masters;
  for (const bool timed : {false, true}) {
    const auto models = make_tiny_models(ctx, tiny_student());
    StepTimer timer(ctx);
    Trainer::Setup setup = tiny_setup(ctx, *comms[0], *comms[0], *models, LossConfig());
    if (timed) setup.models.timer = &timer;
    Trainer trainer(setup);
    ctx.synchronize();
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < 2; ++i) {
      timer.begin_update();
      trainer.update({tiny_batch(4 * i, 2), tiny_batch(4 * i + 2, 2)}, i + 1, 4 * i);
    }
    const std::vector<StepTimer::Times> updates = timer.take();
    const std::chrono::duration<double, std::milli> wall = std::chrono::steady_clock::now() - start;
    ASSERT_EQ(updates.size(), 2U);
    double sum = 0;
    for (const StepTimer::Times& times : updates) {
      for (size_t i = 0; i < kStepParts; ++i) {
        EXPECT_EQ(times[i] > 0, timed) << step_part_name(static_cast<StepPart>(i));
        sum += times[i];
      }
    }
    EXPECT_LE(sum, wall.count());
    EXPECT_TRUE(timer.take().empty());
    const std::vector<float> found = models->store().master().to_floats(ctx);
    if (timed) {
      EXPECT_EQ(found, masters.front());
    }
    masters.push_back(found);
  }
}

TEST(StepTimer, PartsOfAnUpdate) { expect_parts(cpu()); }

TEST(StepTimerCuda, PartsOfAnUpdate) { expect_parts(*new_cuda()); }

}  // namespace
}  // namespace matvlm::testing
