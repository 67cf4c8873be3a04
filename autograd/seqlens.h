// Boundaries of the samples in a packed row of T tokens: sample b is [cu[b], cu[b+1]). On the host, where shapes are
// decided, and on the device, where kernels read it.
#pragma once

#include <memory>
#include <vector>

#include "core/tensor.h"
#include "core/upload_batch.h"

namespace matvlm {

struct Seqlens {
  std::vector<int64_t> cu;  // B + 1, cu[0] = 0, not decreasing
  Tensor device_cu;         // i64 [B + 1]
  int64_t longest = 0;
  int64_t batch() const { return static_cast<int64_t>(cu.size()) - 1; }
  int64_t tokens() const { return cu.back(); }
  int64_t length(int64_t b) const { return cu[static_cast<size_t>(b) + 1] - cu[static_cast<size_t>(b)]; }
};

// Shared, because every op of a pass captures it. Error when cu is empty, does not start at 0 or decreases.
using SeqlensPtr = std::shared_ptr<const Seqlens>;
SeqlensPtr make_seqlens(Context& ctx, std::vector<int64_t> cu);
// The same with device_cu as one of the uploads.
SeqlensPtr make_seqlens(UploadBatch& uploads, std::vector<int64_t> cu);

}  // namespace matvlm
