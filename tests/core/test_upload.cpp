// Host values on their way to the device: the host's memory is free to change at once, whatever the size, and nothing
// is lost where uploads wait for each other.
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "core/tensor.h"

namespace matvlm {
namespace {

std::vector<int32_t> numbered(int64_t n, int32_t start) {
  std::vector<int32_t> out(static_cast<size_t>(n));
  for (size_t i = 0; i < out.size(); ++i) out[i] = start + static_cast<int32_t>(i);
  return out;
}

void check_uploads(Context& ctx) {
  // Around the size of a segment of the ring that the GPU's uploads pass through (2^18 numbers), many small ones, and
  // one that is larger than the ring.
  std::vector<int64_t> sizes = {0, 1, 15, 16, 17, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 3, 5 << 20};
  for (int i = 0; i < 300; ++i) sizes.push_back(1 + i * 37 % 5000);
  std::vector<Tensor> tensors;
  std::vector<int32_t> host;
  for (size_t i = 0; i < sizes.size(); ++i) {
    host = numbered(sizes[i], static_cast<int32_t>(i) * 1000);
    tensors.push_back(Tensor::from(ctx, host, {sizes[i]}));
    host.assign(host.size(), -1);
  }
  for (size_t i = 0; i < sizes.size(); ++i) {
    ASSERT_EQ(tensors[i].to_vector<int32_t>(ctx), numbered(sizes[i], static_cast<int32_t>(i) * 1000)) << i;
  }
}

TEST(Upload, ValuesArrive) { check_uploads(*make_cpu_context(1)); }
TEST(UploadCuda, ValuesArrive) { check_uploads(*make_cuda_context(0)); }

}  // namespace
}  // namespace matvlm
