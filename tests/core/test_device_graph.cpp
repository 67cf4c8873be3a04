// Recorded work: runs as often as it is launched, on what its memory holds then; errors leave the context as it was.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/allocator.h"
#include "core/device_graph.h"
#include "core/error.h"
#include "core/gemm.h"

namespace matvlm {
namespace {

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(DeviceGraph, OnlyAGpuRecords) {
  const auto ctx = make_cpu_context(1);
  EXPECT_EQ(recording_obstacle(*ctx), "a device that is no GPU");
  EXPECT_EQ(recording_obstacle(*make_counting_context(DeviceType::cuda)), "a device that only counts memory");
  EXPECT_EQ(message_of([&] { record_work(*ctx, [] {}); }), "[device_graph] found a device that is no GPU");
}

TEST(DeviceGraphCuda, ReplaysReadTheirMemoryAnew) {
  const auto ctx = make_cuda_context(0);
  EXPECT_EQ(recording_obstacle(*ctx), "");
  const Tensor a = Tensor::from(*ctx, std::vector<float>{1, 2, 3, 4}, {2, 2});
  const Tensor b = Tensor::from(*ctx, std::vector<float>{1, 1, 0, 1}, {2, 2});
  const Tensor c = Tensor::zeros(*ctx, {2, 2}, DType::f32);
  gemm(*ctx, false, false, 1.0F, a, b, 1.0F, c);  // the library's first call
  c.zero(*ctx);
  const auto graph = record_work(*ctx, [&] {
    const StepMemory memory(*ctx->allocator());
    const Tensor copy = a.clone(*ctx);
    gemm(*ctx, false, false, 1.0F, copy, b, 1.0F, c);
  });
  EXPECT_GE(graph->nodes(), 2);
  EXPECT_EQ(c.to_floats(*ctx), std::vector<float>(4, 0.0F)) << "nothing runs while it is recorded";
  graph->launch();
  EXPECT_EQ(c.to_floats(*ctx), (std::vector<float>{1, 3, 3, 7}));
  graph->launch();
  EXPECT_EQ(c.to_floats(*ctx), (std::vector<float>{2, 6, 6, 14}));
  a.copy_from_floats(*ctx, std::vector<float>{1, 0, 0, 1});
  graph->launch();
  EXPECT_EQ(c.to_floats(*ctx), (std::vector<float>{3, 7, 6, 15}));
}

TEST(DeviceGraphCuda, ErrorsLeaveTheContextAsItWas) {
  const auto ctx = make_cuda_context(0);
  const Tensor a = Tensor::from(*ctx, std::vector<float>{1, 2}, {2});
  const Tensor b = Tensor::zeros(*ctx, {2}, DType::f32);
  const auto recorded = [&](const std::function<void()>& then) {
    return message_of([&] {
      record_work(*ctx, [&] {
        b.copy_from(*ctx, a);
        then();
      });
    });
  };
  EXPECT_EQ(recorded([] { fail("stop"); }), "stop");
  EXPECT_EQ(recorded([&] { a.to_floats(*ctx); }), "[cuda] the host waits for the device while work is recorded");
  EXPECT_EQ(recorded([&] { ctx->synchronize(); }), "[cuda] the host waits for the device while work is recorded");
  EXPECT_EQ(recorded([&] { Tensor::from(*ctx, std::vector<float>{1}, {1}); }),
            "[cuda] host values are sent while work is recorded");
  EXPECT_EQ(recorded([&] { record_work(*ctx, [] {}); }), "[device_graph] a recording inside another");
  ctx->allocator()->set_limit(ctx->allocator()->stats().reserved + 1024);
  EXPECT_NE(recorded([&] { Tensor::empty(*ctx, {1 << 20}, DType::f32); }).find("out of memory"), std::string::npos);
  ctx->allocator()->set_limit(0);
  EXPECT_EQ(b.to_floats(*ctx), (std::vector<float>{0, 0}));
  EXPECT_EQ(recorded([] {}), "no error");
  b.copy_from(*ctx, a);
  EXPECT_EQ(b.to_floats(*ctx), (std::vector<float>{1, 2}));
}

}  // namespace
}  // namespace matvlm
