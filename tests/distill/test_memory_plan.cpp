// The plan of the memory against what the allocator counts when the same step really runs.
#include <gtest/gtest.h>

#include <cstdlib>

#include "core/allocator.h"
#include "core/comm.h"
#include "distill/memory_plan.h"
#include "tests/support/tiny_model.h"

namespace matvlm::testing {
namespace {

const std::vector<RecomputeSpec> kSpecs = {
    {}, {Recompute::mlp}, {Recompute::mixers}, {Recompute::blocks}, {Recompute::blocks, 2}, {Recompute::mlp, 1, 3, 4}};

MemoryRequest tiny_request(const TinyModels& models, const StudentConfig& student, int64_t batch, int64_t length) {
  MemoryRequest request;
  request.teacher = models.teacher_config;
  request.student = models.student_config;
  request.trained = [student](const std::string& name) { return is_trained(student, name); };
  request.dtype = DType::f32;
  request.device = DeviceType::cpu;
  request.batch = batch;
  request.length = length;
  return request;
}

// Peak of two updates on the CPU, without what the weights take.
int64_t measured_activations(const StudentConfig& student, bool llama, const MemoryRequest& request) {
  const auto ctx = make_cpu_context(2);
  const auto models = llama ? make_tiny_llama(*ctx, student) : make_tiny_models(*ctx, student);
  const auto comms = make_local_comms(1);
  Trainer::Setup setup = tiny_setup(*ctx, *comms.front(), *comms.front(), *models, request.loss);
  setup.models.recompute = request.recompute;
  setup.schedule.total = 1000;
  Trainer trainer(setup);
  ctx->allocator()->release_cached();
  ctx->allocator()->reset_peak();
  const int64_t weights = ctx->allocator()->stats().current;
  const std::vector<MicroBatch> batches = {full_batch(request.student, request.batch, request.length)};
  for (int64_t number = 1; number <= 2; ++number) trainer.update(batches, number, number * request.batch);
  return ctx->allocator()->stats().peak - weights;
}

void expect_plan_holds(bool llama) {
  const StudentConfig student = tiny_student();
  const auto ctx = make_cpu_context(2);
  const auto models = llama ? make_tiny_llama(*ctx, student) : make_tiny_models(*ctx, student);
  MemoryRequest request = tiny_request(*models, student, 3, 60);
  int64_t none = 0;
  for (const RecomputeSpec& recompute : kSpecs) {
    SCOPED_TRACE(cat("mode ", static_cast<int>(recompute.what), " every ", recompute.every, ", ", recompute.layers,
                     " of ", recompute.of));
    request.recompute = recompute;
    const MemoryPlan plan = plan_memory(request);
    const int64_t measured = measured_activations(student, llama, request);
    EXPECT_LE(std::abs(plan.activations - measured), measured / 20) << plan.activations << " planned, " << measured;
    EXPECT_EQ(plan.peak, plan.frozen + plan.trained + plan.workspace + plan.activations);
    EXPECT_EQ(plan.trained, models->store().bytes());
    if (recompute.what == Recompute::none) none = plan.activations;
    if (recompute.what != Recompute::none) {
      EXPECT_LT(plan.activations, none);
    }
  }
}

TEST(MemoryPlan, IsWhatTheStepTakes) { expect_plan_holds(false); }
TEST(MemoryPlan, IsWhatTheStepTakesInSequentialBlocks) { expect_plan_holds(true); }

// A GPU's plan needs no GPU; bf16 activations take less than float32 ones, longer rows more.
TEST(MemoryPlan, OfAGpu) {
  const StudentConfig student = tiny_student();
  const auto ctx = make_cpu_context(2);
  const auto models = make_tiny_models(*ctx, student);
  MemoryRequest request = tiny_request(*models, student, 2, 40);
  request.device = DeviceType::cuda;
  const MemoryPlan single = plan_memory(request);
  EXPECT_EQ(single.workspace, kGpuWorkspaceBytes);
  request.dtype = DType::bf16;
  const MemoryPlan half = plan_memory(request);
  EXPECT_LT(half.activations, single.activations);
  MemoryRequest offloaded = request;
  offloaded.offload = Offload::cpu;
  const MemoryPlan less = plan_memory(offloaded);
  // Moments and what masters have beside their compute copies: 10 1/8 bytes of 16 1/8.
  EXPECT_EQ(half.trained - less.trained, models->store().grad().numel() * 81 / 8);
  EXPECT_EQ(less.activations, half.activations);
  request.length = 60;
  EXPECT_GT(plan_memory(request).activations, half.activations);
}

}  // namespace
}  // namespace matvlm::testing
