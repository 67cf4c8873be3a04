// Several host vectors in one copy: every tensor has its values, wherever it begins, and a layout says when two batches
// lie alike.
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "core/error.h"
#include "core/upload_batch.h"

namespace matvlm {
namespace {

void check_values(Context& ctx) {
  const std::vector<float> floats = {1.5F, -2, 3};
  const std::vector<int64_t> longs = {int64_t{1} << 40, -7};
  std::vector<int32_t> ints(1000);
  for (size_t i = 0; i < ints.size(); ++i) ints[i] = static_cast<int32_t>(i * i);
  Tensor a, b, c, none;
  UploadBatch uploads;
  uploads.add(floats, &a);
  uploads.add(longs, &b);
  uploads.add(std::vector<float>(), &none);
  uploads.add(ints, &c);
  const Tensor memory = uploads.send(ctx);
  EXPECT_EQ(a.to_vector<float>(ctx), floats);
  EXPECT_EQ(b.to_vector<int64_t>(ctx), longs);
  EXPECT_EQ(c.to_vector<int32_t>(ctx), ints);
  EXPECT_EQ(none.numel(), 0);
  for (const Tensor& t : {a, b, c}) EXPECT_EQ(reinterpret_cast<uintptr_t>(t.raw()) % 256, 0U);

  // Other values of the same layout over the first ones: the views see them.
  Tensor d, e, f, g;
  UploadBatch others;
  others.add(std::vector<float>{7, 8, 9}, &d);
  others.add(std::vector<int64_t>{5, 6}, &e);
  others.add(std::vector<float>(), &f);
  others.add(ints, &g);
  EXPECT_EQ(others.layout(), uploads.layout());
  memory.copy_from(ctx, others.send(ctx));
  EXPECT_EQ(a.to_vector<float>(ctx), (std::vector<float>{7, 8, 9}));
  EXPECT_EQ(b.to_vector<int64_t>(ctx), (std::vector<int64_t>{5, 6}));

  UploadBatch longer;
  longer.add(std::vector<float>{7, 8, 9, 10}, &d);
  EXPECT_NE(longer.layout(), UploadBatch().layout());
  EXPECT_THROW(memory.view_bytes(memory.numel() - 4, {2}, DType::f32), Error) << "beyond the end";
  EXPECT_THROW(memory.view_bytes(2, {1}, DType::f32), Error) << "not at a multiple of the element's size";
}

TEST(UploadBatch, ValuesArrive) { check_values(*make_cpu_context(1)); }
TEST(UploadBatchCuda, ValuesArrive) { check_values(*make_cuda_context(0)); }

}  // namespace
}  // namespace matvlm
