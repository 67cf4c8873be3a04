// Brings tensors from files into memory of a device: threads take pieces of the mapped files, check and convert them
// into pinned buffers, and copy each to its place while the next ones are read. A value is copied once on the host; for
// a CPU to where it belongs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "core/tensor_source.h"

namespace matvlm {

struct UploadItem {
  Tensor destination;  // contiguous, f32 or bf16; may be rows of a larger tensor
  std::string name;    // in the source; as many elements, F32, F16, BF16, F64 or quantised
};

struct UploadOptions {
  int64_t threads = 0;                     // that read; 0: one for each core, at most 8
  int64_t piece_bytes = int64_t{4} << 20;  // of the destination, at a time; two such buffers a thread
};

// Fills the destinations; they are ready for all work of the context when it returns. Error for a NaN or an infinity
// (file, name, element; of several the first in the order of the items), and for other
// shapes or types.
void upload_tensors(Context& ctx, const TensorSource& source, const std::vector<UploadItem>& items,
                    const UploadOptions& options = {});

// One tensor.
void upload_into(Context& ctx, const Tensor& destination, const TensorSource& source, const std::string& name);

// How one thread brings pieces to the device. Made and used on that thread.
class UploadLane {
 public:
  virtual ~UploadLane() = default;
  // Where to write the next `bytes` bytes that belong at `destination`; waits until that memory is free.
  virtual std::byte* buffer(void* destination, int64_t bytes) = 0;
  // Starts the copy of what buffer() gave.
  virtual void send(void* destination, int64_t bytes) = 0;
  // Waits for all copies.
  virtual void finish() = 0;
};
// For `bytes` at a time. (upload_lane_cuda.cpp / upload_lane_no_cuda.cpp)
std::unique_ptr<UploadLane> make_cuda_upload_lane(Context& ctx, int64_t bytes);

}  // namespace matvlm
